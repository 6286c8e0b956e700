"""Statements on tasks for what is not hot: lists, cancelling, retrying and deleting.

Changes of status write their event in the same statement. They are plain SQL for psycopg (`exec_driver_sql` on a SQLAlchemy
connection); the others are SQLAlchemy statements.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

from sqlalchemy import Select, Text, func, select, text, type_coerce
from sqlalchemy.dialects.postgresql import ARRAY

from shared.identifiers import least_id
from shared.queries.batches import is_batch_of
from shared.queries.files import TOMBSTONE_DAYS
from shared.queries.hot_tasks import CANCELLED_ERROR, DUE_CHANNEL, NAME_THE_CLAIM
from shared.queries.unknown_deliveries import final_error
from shared.queries.workflows import is_workflow_of
from shared.tables.callers import api_keys, callers
from shared.tables.tasks import (
    task_events,
    task_payloads,
    tasks,
    tombstones,
)

MAX_CLOCK_DIFFERENCE: Final = timedelta(days=1)
"""How far the clock of an API process and that of the database may differ.

A list by `created_at` (the database's clock) is also bounded by ids (the API's clock), because there is an index on ids.
"""

_LIVE: Final = "'scheduled', 'queued', 'running', 'retrying'"

CANCEL: Final = f"""
WITH ended AS (
    UPDATE tasks task SET
        status = CASE WHEN task.status = 'running' THEN 'running' ELSE 'cancelled' END,
        cancel_requested_at = now(),
        finished_at = CASE WHEN task.status <> 'running' THEN now() END,
        purge_at = CASE WHEN task.status <> 'running' THEN now() + task.keep_seconds * interval '1 second' END,
        next_attempt_at = NULL, rung_at = NULL, turn = NULL, version = task.version + 1,
        named_claim = CASE WHEN task.status = 'running' THEN {NAME_THE_CLAIM} ELSE task.named_claim END
    WHERE task.id = ANY(%(ids)s) AND task.status IN ({_LIVE}) AND task.cancel_requested_at IS NULL
    RETURNING task.id, task.version, task.status, task.attempt
),
payload AS (
    UPDATE task_payloads payload
    SET error = {final_error(f"'{CANCELLED_ERROR}'::jsonb")} || jsonb_build_object('attempt', ended.attempt)
    FROM ended WHERE payload.task_id = ended.id AND ended.status = 'cancelled'
),
event AS (
    INSERT INTO task_events (task_id, seq, type, data)
    SELECT id, version, 'status', jsonb_build_object('status', status, 'cancel_requested', true) FROM ended
)
SELECT id FROM ended"""
"""Cancel tasks that are not running, and request the cancellation of running ones. Returns the ids of changed tasks."""

NOT_RETRIABLE: Final = "TM002"
"""The SQLSTATE of the error with which `RETRY` refuses a step of a workflow that cannot start yet. The message says why."""

RETRY: Final = f"""
WITH queued AS (
    UPDATE tasks task SET status = 'queued', max_attempts = task.max_attempts + %(kind_attempts)s, version = task.version + 1,
        run_at = NULL, ttl = NULL, expires_at = NULL, finished_at = NULL, purge_at = NULL, rung_at = NULL, turn = NULL,
        started_at = NULL, cancel_requested_at = NULL, progress_percent = NULL, progress_message = NULL
    WHERE task.id = %(id)s AND task.status IN ('failed', 'cancelled', 'expired')
    RETURNING task.id, task.version
),
payload AS (UPDATE task_payloads payload SET error = NULL FROM queued WHERE payload.task_id = queued.id),
event AS (
    INSERT INTO task_events (task_id, seq, type, data)
    SELECT id, version, 'status', jsonb_build_object('status', 'queued', 'retried', true) FROM queued
)
SELECT id, pg_notify('{DUE_CHANNEL}', '') FROM queued"""
"""Move a failed, cancelled or expired task back to its queue. Returns its id, or no row."""

COUNT_QUEUED: Final = """
SELECT owner_id, sum(tasks)::bigint AS queued FROM (
    SELECT owner_id, count(*) AS tasks FROM tasks WHERE status = 'queued' AND rung_at IS NULL GROUP BY owner_id
    UNION ALL
    SELECT owner_id, count(*) FROM tasks WHERE status = 'queued' AND rung_at IS NOT NULL GROUP BY owner_id) AS counted
GROUP BY owner_id"""
"""Count the queued tasks of each caller. Each half reads one partial index; for both at once, Postgres reads the whole table."""


def lock_task(task_id: UUID) -> Select[Any]:
    """Read the status, kind and owner of a task, and lock its row until the transaction ends."""
    return (
        select(tasks.c.id, tasks.c.status, tasks.c.kind, tasks.c.organization_id, tasks.c.owner_id)
        .where(tasks.c.id == task_id)
        .with_for_update()
    )


def read_params(task_id: UUID) -> Select[Any]:
    """Read a task's params."""
    return select(task_payloads.c.params).where(task_payloads.c.task_id == task_id)


def find_tombstone(task_id: UUID, organization_id: UUID | None) -> Select[UUID]:
    """Find a task that was purged within the last `TOMBSTONE_DAYS` days and belonged to the organization, if one is given."""
    statement = select(tombstones.c.id).where(
        tombstones.c.id == task_id,
        tombstones.c.subject == "task",
        tombstones.c.purged_at > func.now() - timedelta(days=TOMBSTONE_DAYS),
    )
    return statement if organization_id is None else statement.where(tombstones.c.organization_id == organization_id)


def list_origins(task_ids: Sequence[UUID]) -> Select[Any]:
    """List who submitted tasks and which worker claimed them last: id, owner_id, owner_name, api_key_name, worker."""
    worker = (
        select(task_events.c.data["worker"].astext)
        .where(task_events.c.task_id == tasks.c.id, task_events.c.data.has_key("worker"))
        .order_by(task_events.c.seq.desc())
        .limit(1)
        .scalar_subquery()
    )
    return (
        select(
            tasks.c.id,
            tasks.c.owner_id,
            callers.c.name.label("owner_name"),
            api_keys.c.name.label("api_key_name"),
            worker.label("worker"),
        )
        .outerjoin(callers, callers.c.id == tasks.c.owner_id)
        .outerjoin(api_keys, api_keys.c.id == tasks.c.api_key_id)
        .where(tasks.c.id.in_(task_ids))
    )


def list_page(
    organization_id: UUID | None,
    *,
    before_id: UUID | None,
    limit: int,
    status: Sequence[str] | None = None,
    kind: str | None = None,
    queue: str | None = None,
    tag: str | None = None,
    batch_id: UUID | None = None,
    workflow_id: UUID | None = None,
    owner_id: UUID | None = None,
    created_after: datetime | None = None,
    created_before: datetime | None = None,
) -> Select[UUID]:
    """List the ids of one page, newest first; without an organization, of all of them.

    `created_after` includes its moment and `created_before` does not.
    """
    statement = select(tasks.c.id).order_by(tasks.c.id.desc()).limit(limit)
    if organization_id is not None:
        statement = statement.where(tasks.c.organization_id == organization_id)
    if before_id is not None:
        statement = statement.where(tasks.c.id < before_id)
    if status:
        statement = statement.where(tasks.c.status.in_(status))
    if kind is not None:
        statement = statement.where(tasks.c.kind == kind)
    if queue is not None:
        statement = statement.where(tasks.c.queue == queue)
    if tag is not None:
        # The second condition is that of the partial index on tags.
        statement = statement.where(type_coerce(tasks.c.tags, ARRAY(Text)).contains([tag]), text("tags <> '{}'"))
    if batch_id is not None:
        statement = statement.where(tasks.c.batch_id == batch_id)
        if organization_id is not None:
            # Without this, a large batch of another organization would be read in vain.
            statement = statement.where(is_batch_of(batch_id, organization_id))
    if workflow_id is not None:
        statement = statement.where(tasks.c.workflow_id == workflow_id)
        if organization_id is not None:
            # As with a batch.
            statement = statement.where(is_workflow_of(workflow_id, organization_id))
    if owner_id is not None:
        # The organization leads to an index; there is none on owners.
        organization = select(callers.c.organization_id).where(callers.c.id == owner_id).scalar_subquery()
        statement = statement.where(tasks.c.owner_id == owner_id, tasks.c.organization_id == organization)
    # The API shows times in milliseconds, so the filters compare times rounded down to milliseconds.
    shown_at = func.date_trunc("milliseconds", tasks.c.created_at)
    if created_after is not None:
        statement = statement.where(
            shown_at >= created_after, tasks.c.id >= least_id(created_after, -MAX_CLOCK_DIFFERENCE)
        )
    if created_before is not None:
        statement = statement.where(
            shown_at < created_before, tasks.c.id < least_id(created_before, MAX_CLOCK_DIFFERENCE)
        )
    return statement
