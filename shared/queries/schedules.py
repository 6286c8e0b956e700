"""Statements on schedules, their slots, and signs of life."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any, Final
from uuid import UUID

from sqlalchemy import Executable, Select, bindparam, case, delete, false, func, or_, select, tuple_, update
from sqlalchemy.dialects.postgresql import JSONB, insert

from shared.tables.callers import organizations
from shared.tables.schedules import schedule_slots, schedules
from shared.tables.tasks import tasks
from shared.tables.workflows import workflows

NOW: Final = select(func.now())
"""Return the time of the database."""

LATEST_SLOTS: Final = 20
"""How many of the latest slots of a schedule are checked for a task that is not done."""


def ensure_schedule(
    schedule_id: UUID, name: str, kind: str, params: dict[str, Any], options: dict[str, Any], every_seconds: int
) -> Executable:
    """Insert or update one of the platform's own schedules. `enabled` is not changed, because an operator may have set it."""
    values = {"kind": kind, "params": params, "options": options, "every_seconds": every_seconds}
    return (
        insert(schedules)
        .values(id=schedule_id, name=name, **values)
        .on_conflict_do_update(index_elements=["organization_id", "name"], set_=values)
    )


def lock_due_schedules(limit: int) -> Select[Any]:
    """Lock enabled schedules whose next slot has come, passing over those that another beat has locked.

    The schedules of a disabled organization submit nothing until it is enabled again.

    Returns every column of `schedules`, `now`, and `is_running`: whether a task or workflow of its latest slots is not done. That
    is computed only for schedules with `overlap = 'skip'`, and is False for others.
    """
    latest = (
        select(schedule_slots.c.task_id)
        .where(schedule_slots.c.schedule_id == schedules.c.id)
        .order_by(schedule_slots.c.slot.desc())
        .limit(LATEST_SLOTS)
        .correlate(schedules)
        .lateral("latest")
    )
    live = select(tasks.c.id).where(tasks.c.id == latest.c.task_id, tasks.c.finished_at.is_(None)).exists()
    live_workflow = select(workflows.c.id).where(
        workflows.c.schedule_id == schedules.c.id, workflows.c.finished_at.is_(None)
    )
    is_live = or_(select(latest.c.task_id).where(live).exists(), live_workflow.exists())
    is_running = case((schedules.c.overlap == "skip", is_live), else_=false())
    return (
        select(schedules, func.now().label("now"), is_running.label("is_running"))
        .where(
            schedules.c.enabled,
            schedules.c.next_at.is_not(None),
            schedules.c.next_at <= func.now(),
            schedules.c.organization_id.not_in(
                select(organizations.c.id).where(organizations.c.disabled_at.is_not(None))
            ),
        )
        .order_by(schedules.c.next_at)
        .limit(limit)
        .with_for_update(of=schedules, skip_locked=True)
    )


def insert_slots(slots: Sequence[Mapping[str, Any]]) -> Executable:
    """Insert slots with the ids of their tasks. Returns `task_id` for each slot that no other beat has inserted before."""
    return insert(schedule_slots).values(list(slots)).on_conflict_do_nothing().returning(schedule_slots.c.task_id)


def plan_next_slots() -> Executable:
    """Store the next slot of schedules and why their last slot has no task, for executing with a list of parameters.

    The parameters are `schedule` (its id), `next` (None if the rule has no further slot), `error` (None if there is none), and
    `details`, the column `failure_details` (None without an error).
    """
    values = {
        "next_at": bindparam("next", type_=schedules.c.next_at.type),
        "planned_at": func.now(),
        "last_error": bindparam("error", type_=JSONB(none_as_null=True)),
        "failure_details": bindparam("details", type_=JSONB(none_as_null=True)),
    }
    return update(schedules).where(schedules.c.id == bindparam("schedule", type_=schedules.c.id.type)).values(**values)


def plan_again_after_clock_was_turned_back(seconds: float) -> Executable:
    """Set `next_at` to now for schedules with a `planned_at` more than `seconds` ahead: the clock was set back.

    Slots that have a task keep it, so that no slot gets a second one. Returns the names of the schedules.
    """
    ahead = schedules.c.planned_at > func.now() + timedelta(seconds=seconds)
    values = {"next_at": func.now(), "planned_at": func.now()}
    return update(schedules).where(schedules.c.enabled, ahead).values(**values).returning(schedules.c.name)


def insert_schedule(values: Mapping[str, Any]) -> Executable:
    """Store a schedule. Raises `IntegrityError` when its organization has one of that name."""
    return insert(schedules).values(**values).returning(*schedules.c)


def count_schedules(organization_id: UUID) -> Select[Any]:
    """Count the schedules of an organization."""
    return select(func.count()).select_from(schedules).where(schedules.c.organization_id == organization_id)


def find_schedule(schedule_id: UUID, organization_id: UUID | None) -> Select[Any]:
    """Find a schedule, every column of `schedules`: of one organization, or of any if None."""
    statement = select(schedules).where(schedules.c.id == schedule_id)
    return statement if organization_id is None else statement.where(schedules.c.organization_id == organization_id)


def lock_schedule(schedule_id: UUID, organization_id: UUID | None) -> Select[Any]:
    """Find a schedule, and lock its row until the transaction ends. `now` is the time of the database."""
    return find_schedule(schedule_id, organization_id).add_columns(func.now().label("now")).with_for_update()


def list_schedules(organization_id: UUID | None, before: UUID | None, limit: int) -> Select[Any]:
    """List schedules, newest first: of one organization, or of all if None; those older than the schedule `before`."""
    statement = select(schedules).order_by(schedules.c.id.desc()).limit(limit)
    if organization_id is not None:
        statement = statement.where(schedules.c.organization_id == organization_id)
    return statement if before is None else statement.where(schedules.c.id < before)


def change_schedule(schedule_id: UUID, values: Mapping[str, Any]) -> Executable:
    """Change a schedule, and raise its version. `planned_at` becomes this moment unless `values` has another."""
    changed = {"planned_at": func.now(), **values, "version": schedules.c.version + 1, "updated_at": func.now()}
    return update(schedules).where(schedules.c.id == schedule_id).values(**changed).returning(*schedules.c)


def delete_schedule(schedule_id: UUID) -> Executable:
    """Delete a schedule with its slots; the tasks that it submitted stay."""
    return delete(schedules).where(schedules.c.id == schedule_id)


def list_runs(schedule_id: UUID, limit: int) -> Select[Any]:
    """List the latest slots of a schedule, newest first: `slot`, `task_id`, `workflow_id`, and `status`, None once purged.

    For a workflow, `task_id` is the task of its first step, and `status` that of the workflow.
    """
    return (
        select(
            schedule_slots.c.slot,
            schedule_slots.c.task_id,
            tasks.c.workflow_id,
            func.coalesce(workflows.c.status, tasks.c.status).label("status"),
        )
        .select_from(
            schedule_slots.outerjoin(tasks, tasks.c.id == schedule_slots.c.task_id).outerjoin(
                workflows, workflows.c.id == tasks.c.workflow_id
            )
        )
        .where(schedule_slots.c.schedule_id == schedule_id)
        .order_by(schedule_slots.c.slot.desc())
        .limit(limit)
    )


INSERT_SLOT_NOW: Final = """
INSERT INTO schedule_slots (schedule_id, slot, task_id) VALUES (%(schedule_id)s, clock_timestamp(), %(task_id)s)"""
"""Insert a slot with the current time, for a run on request. Plain SQL, because it runs on a psycopg connection."""


def drop_old_slots(limit: int, days: int) -> Executable:
    """Delete slots older than `days` days."""
    old = (
        select(schedule_slots.c.schedule_id, schedule_slots.c.slot)
        .where(schedule_slots.c.slot < func.now() - timedelta(days=days))
        .limit(limit)
    )
    return delete(schedule_slots).where(tuple_(schedule_slots.c.schedule_id, schedule_slots.c.slot).in_(old))
