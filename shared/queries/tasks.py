"""Statements on tasks for what is not hot: lists, cancelling, retrying and deleting.

Changes of status write their event in the same statement. They are plain SQL for psycopg (`exec_driver_sql` on a SQLAlchemy
connection); the others are SQLAlchemy statements.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import timedelta
from typing import Any, Final
from uuid import UUID

from sqlalchemy import (
    ColumnElement,
    Select,
    Text,
    Uuid,
    any_,
    cast,
    func,
    literal,
    literal_column,
    or_,
    select,
    text,
    type_coerce,
)
from sqlalchemy.dialects.postgresql import ARRAY, array

from shared.identifiers import least_id
from shared.queries.batches import is_batch_of
from shared.queries.files import TOMBSTONE_DAYS
from shared.queries.hot_tasks import CANCELLED_ERROR, DUE_CHANNEL, NAME_THE_CLAIM
from shared.queries.unknown_deliveries import final_error
from shared.queries.workflows import has_started, is_workflow_of
from shared.tables.callers import api_keys, callers
from shared.tables.tasks import (
    task_events,
    task_payloads,
    tasks,
    tombstones,
)
from shared.tables.webhooks import task_follow_ups
from shared.tasks.filters import TaskFilter
from shared.tasks.states import RETRIABLE, SHOWS_ERROR, TaskStatus

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
        next_attempt_at = NULL, rung_at = NULL, turn = NULL, blocked_at = NULL, version = task.version + 1,
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

MOST_ATTEMPTS: Final = 1000
"""The most attempts that a task may have, which a constraint of the table enforces."""

RETRY: Final = f"""
WITH queued AS (
    UPDATE tasks task SET status = 'queued', max_attempts = task.max_attempts + again.kind_attempts,
        version = task.version + 1,
        run_at = NULL, ttl = NULL, expires_at = NULL, finished_at = NULL, purge_at = NULL, rung_at = NULL,
        turn = NULL, blocked_at = NULL,
        started_at = NULL, cancel_requested_at = NULL, progress_percent = NULL, progress_message = NULL
    FROM unnest(%(ids)s::uuid[], %(kind_attempts)s::int[]) AS again (id, kind_attempts)
    WHERE task.id = ANY(%(ids)s) AND task.id = again.id AND task.status IN ('failed', 'cancelled', 'expired')
        AND task.max_attempts + again.kind_attempts <= {MOST_ATTEMPTS}
    RETURNING task.id, task.version
),
payload AS (UPDATE task_payloads payload SET error = NULL FROM queued WHERE payload.task_id = queued.id),
event AS (
    INSERT INTO task_events (task_id, seq, type, data)
    SELECT id, version, 'status', jsonb_build_object('status', 'queued', 'retried', true) FROM queued
)
SELECT id, CASE WHEN row_number() OVER () = 1 THEN pg_notify('{DUE_CHANNEL}', '') END FROM queued"""
"""Move failed, cancelled or expired tasks back to their queues, each with the attempts of its kind added.

Returns the ids of changed tasks: a task that would have more than `MOST_ATTEMPTS` is left as it is."""

COUNT_QUEUED: Final = """
SELECT owner_id, sum(tasks)::bigint AS queued FROM (
    SELECT owner_id, count(*) AS tasks FROM tasks
    WHERE status = 'queued' AND rung_at IS NULL AND blocked_at IS NULL GROUP BY owner_id
    UNION ALL
    SELECT owner_id, count(*) FROM tasks WHERE status = 'queued' AND blocked_at IS NOT NULL GROUP BY owner_id
    UNION ALL
    SELECT owner_id, count(*) FROM tasks WHERE status = 'queued' AND rung_at IS NOT NULL GROUP BY owner_id) AS counted
GROUP BY owner_id"""
"""Count the queued tasks of each caller. Each part reads one partial index; for all at once, Postgres reads the whole table."""


_ERROR_TYPE: Final = literal_column("(task_payloads.error ->> 'type')", Text)
"""The type of a task's error, in the words of the index on it: with a parameter, the index could not be used."""


def lock_task(task_id: UUID) -> Select[Any]:
    """Lock the row of a task until the transaction ends."""
    return select(tasks.c.id).where(tasks.c.id == task_id).with_for_update()


def lock_started_tasks(task_ids: Sequence[UUID], *, skip_locked: bool) -> Select[Any]:
    """Lock the rows of those tasks that are not done and do not wait for other steps, until the transaction ends.

    Returns (id, status, kind, organization_id, owner_id, workflow_id), in the order of ids. With `skip_locked`, tasks that
    another transaction has locked are left out instead of waited for.
    """
    return _lock(task_ids, skip_locked).where(has_started())


def lock_tasks(task_ids: Sequence[UUID], workflow_ids: Collection[UUID], *, skip_locked: bool) -> Select[Any]:
    """Lock the rows of those tasks that belong to no workflow or to one of these: as `lock_started_tasks`."""
    return _lock(task_ids, skip_locked).where(tasks.c.workflow_id.is_(None) | tasks.c.workflow_id.in_(workflow_ids))


def _lock(task_ids: Sequence[UUID], skip_locked: bool) -> Select[Any]:
    return (
        select(
            *(tasks.c.id, tasks.c.status, tasks.c.kind, tasks.c.organization_id, tasks.c.owner_id),
            tasks.c.workflow_id,
        )
        .where(tasks.c.id.in_(task_ids))
        .order_by(tasks.c.id)
        .with_for_update(skip_locked=skip_locked)
    )


def list_stored(task_ids: Sequence[UUID]) -> Select[UUID]:
    """List those of the ids that are tasks."""
    return select(tasks.c.id).where(tasks.c.id.in_(task_ids))


def list_next(
    organization_id: UUID | None, which: TaskFilter, bulk_task_id: UUID, after_id: UUID | None, limit: int
) -> Select[UUID]:
    """List the next tasks of an action on many, in the order of their ids: those created before the task of the action."""
    created_at = select(tasks.c.created_at).where(tasks.c.id == bulk_task_id).scalar_subquery()
    statement = _where(select(tasks.c.id), organization_id, which).where(tasks.c.created_at < created_at)
    statement = statement.order_by(tasks.c.id).limit(limit)
    return statement if after_id is None else statement.where(tasks.c.id > after_id)


def find_submission(task_id: UUID, organization_id: UUID | None) -> Select[Any]:
    """Find how a task was submitted: its kind, params and options, what follows its end, its status, and how often a caller
    retried it.
    """
    retried = task_events.c.data.has_key("retried")
    retries = (
        select(func.count())
        .where(task_events.c.task_id == tasks.c.id, task_events.c.type == "status", retried)
        .scalar_subquery()
    )
    statement = (
        select(
            *(
                tasks.c.id,
                tasks.c.organization_id,
                tasks.c.status,
                tasks.c.kind,
                tasks.c.priority,
                tasks.c.max_attempts,
            ),
            *(
                tasks.c.timeout_seconds,
                tasks.c.keep_seconds,
                tasks.c.tags,
                tasks.c.metadata,
                tasks.c.backoff,
                tasks.c.key_limits,
                tasks.c.ttl,
            ),
            task_payloads.c.params,
            retries.label("retries"),
            *(task_follow_ups.c.webhook_url, task_follow_ups.c.webhook_secret, task_follow_ups.c.notify),
        )
        .join(task_payloads, task_payloads.c.task_id == tasks.c.id)
        .outerjoin(task_follow_ups, task_follow_ups.c.task_id == tasks.c.id)
        .where(tasks.c.id == task_id)
    )
    return statement if organization_id is None else statement.where(tasks.c.organization_id == organization_id)


def find_live_task(*, batch_id: UUID | None = None, workflow_id: UUID | None = None) -> Select[UUID]:
    """Find the last task of a batch or of a workflow that is not done."""
    statement = select(tasks.c.id).where(tasks.c.finished_at.is_(None)).order_by(tasks.c.id.desc()).limit(1)
    if batch_id is not None:
        statement = statement.where(tasks.c.batch_id == batch_id)
    return statement if workflow_id is None else statement.where(tasks.c.workflow_id == workflow_id)


def list_params(task_ids: Sequence[UUID]) -> Select[Any]:
    """List the params of tasks: (task_id, params)."""
    return select(task_payloads.c.task_id, task_payloads.c.params).where(task_payloads.c.task_id.in_(task_ids))


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


def list_page(organization_id: UUID | None, which: TaskFilter, *, before_id: UUID | None, limit: int) -> Select[UUID]:
    """List the ids of one page, newest first; without an organization, of all of them."""
    statement = _where(select(tasks.c.id), organization_id, which).order_by(tasks.c.id.desc()).limit(limit)
    return statement if before_id is None else statement.where(tasks.c.id < before_id)


def count_tasks(organization_id: UUID | None, which: TaskFilter, limit: int) -> Select[int]:
    """Count tasks, up to `limit`."""
    found = _where(select(tasks.c.id), organization_id, which).limit(limit).subquery()
    return select(func.count()).select_from(found)


LIMIT_COUNTING: Final = "SET LOCAL statement_timeout = '2s'"
"""End the transaction's statements after two seconds: a filter that few of many tasks fit may take long to count."""


MAX_COUNTED_FAILURES: Final = 20_000
"""How many tasks are grouped by their error at most: it takes about half a second, however large the tables are."""


def list_failures(organization_id: UUID | None, which: TaskFilter, limit: int) -> Select[Any]:
    """Group tasks by kind and type of error, the largest group first.

    The newest `MAX_COUNTED_FAILURES` tasks are counted. Returns (kind, error_type, count, first_at, last_at, example_id,
    oldest_at): the times are those of the ends of the first and the last task, the example is the newest task, and `oldest_at` is
    when the oldest was created.
    """
    newest = _where(select(tasks.c.id), organization_id, which).order_by(tasks.c.id.desc()).limit(MAX_COUNTED_FAILURES)
    ids = newest.cte("ids").prefix_with("MATERIALIZED")
    # As in the hot statements, each row is looked up by its index, however large the tables are: see `hot_tasks`.
    task_is_named = tasks.c.id == any_(array([ids.c.id]))
    payload_is_named = task_payloads.c.task_id == any_(array([ids.c.id]))
    error_type = _ERROR_TYPE.label("error_type")
    return (
        select(
            tasks.c.kind,
            error_type,
            func.count().label("count"),
            func.min(tasks.c.finished_at).label("first_at"),
            func.max(tasks.c.finished_at).label("last_at"),
            cast(func.max(cast(tasks.c.id, Text)), Uuid).label("example_id"),
            func.min(tasks.c.created_at).label("oldest_at"),
        )
        .select_from(ids.join(tasks, task_is_named).join(task_payloads, payload_is_named))
        .group_by(tasks.c.kind, error_type)
        .order_by(func.count().desc(), tasks.c.kind, error_type)
        .limit(limit)
    )


_STATUSES_BY_INDEX: Final = (
    frozenset({TaskStatus.RUNNING}),
    frozenset({TaskStatus.SCHEDULED, TaskStatus.RETRYING}),
    RETRIABLE,
    frozenset({TaskStatus.SUCCEEDED}),
)
"""The statuses, without `queued`, by the partial index that has the tasks of these statuses; none has those that succeeded."""


def _has_status(statuses: Collection[TaskStatus]) -> ColumnElement[bool]:
    """Return the condition that a task has one of the statuses.

    It has a part for each partial index, so that Postgres can read the few tasks of a rare status from it, instead of the whole
    history of tasks.
    """
    groups = (sorted(group.intersection(statuses)) for group in _STATUSES_BY_INDEX)
    parts = [_is_one_of(group) for group in groups if group]
    if TaskStatus.QUEUED in statuses:
        queued = _is_one_of([TaskStatus.QUEUED])
        parts += [queued & tasks.c.rung_at.is_(None), queued & tasks.c.rung_at.is_not(None)]
    return or_(*parts)


def _is_one_of(statuses: Collection[TaskStatus]) -> ColumnElement[bool]:
    """Return the condition with the statuses in its text: with parameters, a partial index could not be used."""
    return tasks.c.status.in_([literal(status.value, literal_execute=True) for status in statuses])


def _where(statement: Select[Any], organization_id: UUID | None, which: TaskFilter) -> Select[Any]:
    """Add the conditions of a filter.

    `created_after` includes its moment and `created_before` does not.
    """
    if organization_id is not None:
        statement = statement.where(tasks.c.organization_id == organization_id)
    if which.ids is not None:
        statement = statement.where(tasks.c.id.in_(which.ids))
    if which.status is not None:
        statement = statement.where(_has_status(which.status))
    for column in (tasks.c.kind, tasks.c.queue, tasks.c.parent_id, tasks.c.schedule_id, tasks.c.rerun_of):
        if (value := getattr(which, column.name)) is not None:
            statement = statement.where(column == value)
    if which.tag is not None:
        # The second condition is that of the partial index on tags.
        statement = statement.where(type_coerce(tasks.c.tags, ARRAY(Text)).contains([which.tag]), text("tags <> '{}'"))
    if which.metadata is not None:
        # The second condition is that of the partial index on metadata.
        statement = statement.where(tasks.c.metadata.contains(which.metadata), text("metadata <> '{}'"))
    if which.batch_id is not None:
        statement = statement.where(tasks.c.batch_id == which.batch_id)
        if organization_id is not None:
            # Without this, a large batch of another organization would be read in vain.
            statement = statement.where(is_batch_of(which.batch_id, organization_id))
    if which.workflow_id is not None:
        statement = statement.where(tasks.c.workflow_id == which.workflow_id)
        if organization_id is not None:
            statement = statement.where(is_workflow_of(which.workflow_id, organization_id))
    if which.owner is not None:
        # The organization leads to an index; there is none on owners.
        organization = select(callers.c.organization_id).where(callers.c.id == which.owner).scalar_subquery()
        statement = statement.where(tasks.c.owner_id == which.owner, tasks.c.organization_id == organization)
    if which.error_type is not None:
        statement = statement.join(task_payloads, task_payloads.c.task_id == tasks.c.id)
        # The second condition is that of the partial index; a task of another status does not show its error.
        statement = statement.where(
            _ERROR_TYPE.in_([which.error_type]),
            task_payloads.c.error.is_not(None),
            tasks.c.status.in_(sorted(SHOWS_ERROR)),
        )
    # The API shows times in milliseconds, so the filters compare times rounded down to milliseconds.
    shown_at = func.date_trunc("milliseconds", tasks.c.created_at)
    if (after := which.created_after) is not None:
        statement = statement.where(shown_at >= after, tasks.c.id >= least_id(after, -MAX_CLOCK_DIFFERENCE))
    if (before := which.created_before) is not None:
        statement = statement.where(shown_at < before, tasks.c.id < least_id(before, MAX_CLOCK_DIFFERENCE))
    return statement
