"""Statements on schedules, their slots, and signs of life."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import Executable, Select, delete, func, select, tuple_
from sqlalchemy.dialects.postgresql import insert

from shared.tables.schedules import schedule_slots, schedules


def ensure_schedule(schedule_id: UUID, name: str, kind: str, params: dict[str, Any], every_seconds: int) -> Executable:
    """Make a schedule of the platform's own, or bring it up to date; whether it is enabled is the operator's."""
    values = {"kind": kind, "params": params, "every_seconds": every_seconds}
    return (
        insert(schedules)
        .values(id=schedule_id, name=name, **values)
        .on_conflict_do_update(index_elements=["name"], set_=values)
    )


def list_due_slots() -> Select[Any]:
    """List enabled schedules with the slot that now lies in, by the database's clock, unless that slot was done.

    A slot begins at a multiple of the interval since the Unix epoch. Slots that passed unseen are not made up for.
    """
    slot = func.to_timestamp(
        func.floor(func.extract("epoch", func.now()) / schedules.c.every_seconds) * schedules.c.every_seconds
    ).label("slot")
    current = select(
        schedules.c.id, schedules.c.name, schedules.c.kind, schedules.c.params, schedules.c.every_seconds, slot
    ).where(schedules.c.enabled)
    candidates = current.subquery()
    done = select(schedule_slots.c.slot).where(
        schedule_slots.c.schedule_id == candidates.c.id, schedule_slots.c.slot == candidates.c.slot
    )
    return select(candidates).where(~done.exists())


def take_slot(schedule_id: UUID, slot: datetime, task_id: UUID) -> Executable:
    """Take a slot for a task; gives nothing when another beat has it."""
    return (
        insert(schedule_slots)
        .values(schedule_id=schedule_id, slot=slot, task_id=task_id)
        .on_conflict_do_nothing()
        .returning(schedule_slots.c.slot)
    )


def drop_old_slots(limit: int, days: int) -> Executable:
    """Forget slots that began so many days ago."""
    old = (
        select(schedule_slots.c.schedule_id, schedule_slots.c.slot)
        .where(schedule_slots.c.slot < func.now() - timedelta(days=days))
        .limit(limit)
    )
    return delete(schedule_slots).where(tuple_(schedule_slots.c.schedule_id, schedule_slots.c.slot).in_(old))
