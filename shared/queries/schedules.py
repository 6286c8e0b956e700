"""Statements on schedules, their slots, and signs of life."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

from sqlalchemy import Executable, Select, delete, func, select, text, tuple_
from sqlalchemy.dialects.postgresql import insert

from shared.tables.schedules import schedule_slots, schedules, signs_of_life


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


SHOW_SIGN_OF_LIFE: Final = """
INSERT INTO signs_of_life (part) VALUES (%(part)s) ON CONFLICT (part) DO UPDATE SET at = now()"""
"""Say that a part of the platform lives."""


IS_SILENT: Final = """
SELECT part FROM signs_of_life WHERE part = %(part)s AND at < now() - %(seconds)s * interval '1 second'"""
"""Give a row if a part has shown no sign of life for so long."""


def list_signs_of_life() -> Select[Any]:
    """List (part, age in seconds) of each part that ever showed a sign of life."""
    age = func.extract("epoch", func.now() - signs_of_life.c.at).label("age_seconds")
    return select(signs_of_life.c.part, age)


LIST_CANARIES: Final = """
SELECT DISTINCT ON (s.name) s.params->>'queue' AS queue,
    extract(epoch FROM now() - coalesce(t.finished_at, x.slot))::float8 AS age_seconds,
    extract(epoch FROM t.finished_at - t.created_at)::float8 AS round_trip_seconds
FROM schedules s
CROSS JOIN LATERAL (
    SELECT slot, task_id FROM schedule_slots WHERE schedule_id = s.id ORDER BY slot DESC LIMIT 10) AS x
LEFT JOIN tasks t ON t.id = x.task_id AND t.status = 'succeeded'
WHERE s.kind = %(kind)s AND s.enabled
ORDER BY s.name, t.finished_at DESC NULLS LAST, x.slot"""
"""List, for each queue that canaries go through, how old the last one's return is and how long it was on its way.

Where none of the last ten returned, the age is that of the oldest of them, and its way has no length.
"""

LIST_LATE_CANARIES: Final = """
SELECT DISTINCT ON (s.name) t.queue, t.status = 'queued' AS unclaimed, t.rung_at IS NOT NULL AS published
FROM schedules s
CROSS JOIN LATERAL (
    SELECT task_id FROM schedule_slots WHERE schedule_id = s.id ORDER BY slot DESC LIMIT 10) AS x
JOIN tasks t ON t.id = x.task_id
WHERE s.kind = %(kind)s AND s.enabled AND t.queue = ANY(%(queues)s::text[])
    AND t.created_at < now() - %(seconds)s * interval '1 second'
    AND (SELECT count(*) FROM signs_of_life
        WHERE part IN ('relay', 'sweeper') AND at > now() - %(alive_seconds)s * interval '1 second') = 2
ORDER BY s.name, t.created_at DESC"""
"""List, for each of the queues, the last canary that is older than so many seconds: whether nobody has claimed it, and
whether it is published. Gives nothing while no relay lives, for then there is nothing that a worker could have claimed.
"""

PING = text("SELECT 1")
"""Ask whether the database answers."""
