"""Creates the task or workflow of one slot of a schedule, both for beat and for `POST /schedules/<id>/run`."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from itertools import islice
from math import ceil
from typing import Any, Final, Protocol
from uuid import UUID
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import orjson
from pydantic import ValidationError

from shared.contracts.catalog import list_kinds
from shared.contracts.kind import list_referred_files_in_json
from shared.contracts.secrets import has_secrets
from shared.schedules.rules import Rule, find_jitter
from shared.tasks.options import TaskOptions
from shared.tasks.submission import NewTask, make_task
from shared.workflows.submission import NewWorkflow, load_plans

NEXT_TIMES: Final = 5
"""How many of its next times a schedule shows."""


class ScheduleRow(Protocol):
    """A row of `schedules`."""

    id: UUID
    organization_id: UUID
    owner_id: UUID
    name: str
    kind: str
    params: Any
    options: Mapping[str, Any]
    workflow: Mapping[str, Any] | None
    cron: str | None
    every_seconds: int | None
    timezone: str
    starts_at: datetime | None
    ends_at: datetime | None
    jitter_seconds: int
    enabled: bool
    follow_up: dict[str, Any] | None


class UnusableSchedule(Exception):
    """A schedule from which no task can be created: its kind or its time zone is not known, or its params or options do not fit."""

    def __init__(self, problem: str, title: str, detail: str) -> None:
        super().__init__(detail)
        self.error = {"type": problem, "title": title, "detail": detail}
        """The value of the schedule's `last_error`."""


def find_rule(schedule: ScheduleRow) -> Rule:
    """Return the rule of a stored schedule, which was checked before it was stored.

    Raises `UnusableSchedule` if this computer has no data of its time zone, as with another release of the IANA database.
    """
    try:
        zone = ZoneInfo(schedule.timezone)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        detail = (
            f"The computer has no data of the time zone {schedule.timezone}. "
            "Update the package tzdata where beat runs, or change the schedule's time zone."
        )
        raise UnusableSchedule("/problems/unknown-time-zone", "Unknown time zone", detail) from None
    return Rule(schedule.cron, schedule.every_seconds, zone, schedule.starts_at, schedule.ends_at)


def describe_rule(schedule: ScheduleRow) -> str:
    """Return the rule of a stored schedule in plain words."""
    try:
        return find_rule(schedule).describe()
    except UnusableSchedule:
        return f"In the unknown time zone {schedule.timezone}"


def list_next_times(schedule: ScheduleRow, now: datetime) -> list[datetime]:
    """Return the next times of a stored schedule: none while it is disabled, or while its time zone is not known."""
    try:
        return list(islice(find_rule(schedule).iterate_times(now), NEXT_TIMES)) if schedule.enabled else []
    except UnusableSchedule:
        return []


def describe_failed(schedule: ScheduleRow, now: datetime) -> dict[str, Any]:
    """Return `failure_details` of a schedule whose slot gets no task: what SQL cannot compute for the webhook about it."""
    times = [moment.isoformat() for moment in list_next_times(schedule, now)]
    return {"description": describe_rule(schedule), "next_times": times}


def make_scheduled(schedule: ScheduleRow, slot: datetime) -> NewTask | NewWorkflow:
    """Return the task or workflow of a slot, which starts at the slot or, with jitter, later. Raises `UnusableSchedule`."""
    return make_scheduled_task(schedule, slot) if schedule.workflow is None else make_scheduled_workflow(schedule, slot)


def make_scheduled_workflow(schedule: ScheduleRow, slot: datetime) -> NewWorkflow:
    """Return the workflow of a slot. Raises `UnusableSchedule`."""
    assert schedule.workflow is not None
    plans = load_plans(schedule.workflow["plans"])
    for plan in plans:
        if plan.submission["kind"] not in list_kinds():
            detail = f"The kind {plan.submission['kind']} no longer exists. Change or delete the schedule."
            raise UnusableSchedule("/problems/unknown-kind", "Unknown kind", detail)
    starts_at = None
    if schedule.jitter_seconds:
        starts_at = slot + find_jitter(schedule.id, slot, schedule.jitter_seconds)
    return NewWorkflow(
        schedule.organization_id,
        schedule.owner_id,
        plans,
        name=schedule.workflow["definition"].get("name"),
        schedule_id=schedule.id,
        starts_at=starts_at,
    )


def make_scheduled_task(schedule: ScheduleRow, slot: datetime) -> NewTask:
    """Return the task of a slot, which starts at the slot or, with jitter, a little later. Raises `UnusableSchedule`."""
    kind = list_kinds().get(schedule.kind)
    if kind is None:
        detail = f"The kind {schedule.kind} no longer exists. Change or delete the schedule."
        raise UnusableSchedule("/problems/unknown-kind", "Unknown kind", detail)
    stored = orjson.dumps(schedule.params)
    try:
        if has_secrets(kind.params):
            # Only an attempt decrypts secrets. It validates the params, too.
            params, queue = stored, kind.default_queue
        else:
            validated = kind.params.model_validate_json(stored)
            params, queue = validated.model_dump_json(by_alias=True).encode(), kind.queue_for(validated)
        options = TaskOptions.model_validate_json(orjson.dumps(dict(schedule.options)))
    except ValidationError as error:
        detail = f"The schedule's params or options no longer fit its kind ({error.error_count()} errors). Change them."
        raise UnusableSchedule("/problems/unreadable-params", "Unreadable params", detail) from None
    if schedule.jitter_seconds:
        wait = find_jitter(schedule.id, slot, schedule.jitter_seconds)
        # A `ttl` counts from the creation of the task. Without the jitter added, it could end before the task may start.
        ttl = None if options.ttl is None else options.ttl + ceil(wait.total_seconds())
        options = options.model_copy(update={"run_at": slot + wait, "ttl": ttl})
    task = make_task(
        schedule.kind,
        kind,
        params,
        queue,
        options,
        schedule.organization_id,
        schedule.owner_id,
    )
    task.schedule_id = schedule.id
    task.follow_up = schedule.follow_up
    task.files = [file.file_id for file in list_referred_files_in_json(kind.params, schedule.params)]
    return task
