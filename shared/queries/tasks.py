"""Statements on tasks for what is not hot: lists, cancelling, retrying, deleting, batches, the relay's chores.

Moves write their event in the same statement, as plain SQL for psycopg (`exec_driver_sql` on a SQLAlchemy connection);
the rest are SQLAlchemy statements.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

import orjson
from sqlalchemy import Executable, Select, Text, delete, func, literal, select, text, tuple_, type_coerce
from sqlalchemy.dialects.postgresql import ARRAY, insert

from shared.identifiers import least_id
from shared.queries.files import TOMBSTONE_DAYS
from shared.queries.hot_tasks import CANCELLED_ERROR, DUE_CHANNEL, NAME_THE_CLAIM
from shared.queries.submissions import KEPT_HOURS
from shared.queries.unknown_deliveries import end_with
from shared.tables.emails import email_intents, email_receipts
from shared.tables.files import files
from shared.tables.tasks import (
    idempotency_keys,
    task_events,
    task_files,
    task_payloads,
    tasks,
    tombstones,
    unique_tasks,
)

CLOCKS_DIFFER: Final = timedelta(days=1)
"""How far apart the clock that makes a task's id and the database's, which its `created_at` is of, may be: a list is bounded
by ids, for which there is an index, and those tell their time."""

_LIVE: Final = "'scheduled', 'queued', 'running', 'retrying'"

CANCEL: Final = f"""
WITH u AS (
    UPDATE tasks t SET
        status = CASE WHEN t.status = 'running' THEN 'running' ELSE 'cancelled' END,
        cancel_requested_at = now(),
        finished_at = CASE WHEN t.status <> 'running' THEN now() END,
        purge_at = CASE WHEN t.status <> 'running' THEN now() + t.keep_seconds * interval '1 second' END,
        next_attempt_at = NULL, rung_at = NULL, version = t.version + 1,
        named_claim = CASE WHEN t.status = 'running' THEN {NAME_THE_CLAIM} ELSE t.named_claim END
    WHERE t.id = ANY(%(ids)s) AND t.status IN ({_LIVE}) AND t.cancel_requested_at IS NULL
    RETURNING t.id, t.version, t.status, t.attempt
),
p AS (
    UPDATE task_payloads p
    SET error = {end_with(f"'{CANCELLED_ERROR}'::jsonb")} || jsonb_build_object('attempt', u.attempt)
    FROM u WHERE p.task_id = u.id AND u.status = 'cancelled'
),
e AS (
    INSERT INTO task_events (task_id, seq, type, data)
    SELECT id, version, 'status', jsonb_build_object('status', status, 'cancel_requested', true) FROM u
)
SELECT id FROM u"""
"""Cancel what waits, and ask what runs to stop. Gives the id of each task that this changed."""

RETRY: Final = f"""
WITH u AS (
    UPDATE tasks t SET status = 'queued', max_attempts = t.max_attempts + %(kind_attempts)s, version = t.version + 1,
        run_at = NULL, ttl = NULL, expires_at = NULL, finished_at = NULL, purge_at = NULL, rung_at = NULL, started_at = NULL,
        cancel_requested_at = NULL, progress_percent = NULL, progress_message = NULL
    WHERE t.id = %(id)s AND t.status IN ('failed', 'cancelled', 'expired')
    RETURNING t.id, t.version
),
p AS (UPDATE task_payloads p SET error = NULL FROM u WHERE p.task_id = u.id),
e AS (
    INSERT INTO task_events (task_id, seq, type, data)
    SELECT id, version, 'status', jsonb_build_object('status', 'queued', 'retried', true) FROM u
)
SELECT id, pg_notify('{DUE_CHANNEL}', '') FROM u"""
"""Send a failed, cancelled or expired task back to its queue. Gives its id, or nothing."""


COUNT_QUEUED: Final = """
SELECT owner_id, sum(n)::bigint AS queued FROM (
    SELECT owner_id, count(*) AS n FROM tasks WHERE status = 'queued' AND rung_at IS NULL GROUP BY owner_id
    UNION ALL
    SELECT owner_id, count(*) FROM tasks WHERE status = 'queued' AND rung_at IS NOT NULL GROUP BY owner_id) AS q
GROUP BY owner_id"""
"""Count what is queued, by caller. Each half is one partial index's: asked for both at once, Postgres reads the whole table."""


def lock_task(task_id: UUID) -> Select[Any]:
    """Read what decides whether a task may be moved, and hold its row until the transaction ends."""
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
    created_after: datetime | None = None,
    created_before: datetime | None = None,
) -> Select[UUID]:
    """List the ids of one page, newest first; without an organization, of all of them."""
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
    if created_after is not None:
        # Times are told in milliseconds: a task is not after the time that it is told to be of.
        told = func.date_trunc("milliseconds", tasks.c.created_at)
        statement = statement.where(told > created_after, tasks.c.id >= least_id(created_after, -CLOCKS_DIFFER))
    if created_before is not None:
        statement = statement.where(
            tasks.c.created_at < created_before, tasks.c.id < least_id(created_before, CLOCKS_DIFFER)
        )
    return statement


def count_batch(batch_id: UUID) -> Select[Any]:
    """Count a batch's tasks by status: (organization_id, status, count, first created_at, last finished_at)."""
    return (
        select(
            tasks.c.organization_id,
            tasks.c.status,
            func.count().label("count"),
            func.min(tasks.c.created_at).label("created_at"),
            func.max(tasks.c.finished_at).label("finished_at"),
        )
        .where(tasks.c.batch_id == batch_id)
        .group_by(tasks.c.organization_id, tasks.c.status)
    )


def lock_batch(batch_id: UUID) -> Select[UUID]:
    """List the ids of a batch's tasks, and hold their rows in that order until the transaction ends, as all do."""
    return select(tasks.c.id).where(tasks.c.batch_id == batch_id).order_by(tasks.c.id).with_for_update()


def list_purgeable(limit: int) -> Select[Any]:
    """List done tasks whose keep is over and whose artifacts no live task reads; hold them against others who purge."""
    readers = tasks.alias()
    has_reader = (
        select(files.c.id)
        .join(task_files, (task_files.c.file_id == files.c.id) & (task_files.c.role == "input"))
        .join(readers, readers.c.id == task_files.c.task_id)
        .where(files.c.task_id == tasks.c.id, readers.c.finished_at.is_(None))
        .exists()
    )
    return (
        select(tasks.c.id)
        .where(tasks.c.purge_at <= func.now(), ~has_reader)
        .order_by(tasks.c.purge_at)
        .limit(limit)
        .with_for_update(of=tasks, skip_locked=True)
    )


def lock_artifacts(task_ids: Sequence[UUID]) -> Select[Any]:
    """List the artifacts of tasks, (id, task_id, storage_key), and hold them: no task can begin to read one."""
    return (
        select(files.c.id, files.c.task_id, files.c.storage_key).where(files.c.task_id.in_(task_ids)).with_for_update()
    )


def list_tasks_with_artifacts_in_use(task_ids: Sequence[UUID]) -> Select[UUID]:
    """List those of the tasks whose artifacts a live task reads."""
    readers = tasks.alias()
    return (
        select(files.c.task_id)
        .distinct()
        .join(task_files, (task_files.c.file_id == files.c.id) & (task_files.c.role == "input"))
        .join(readers, readers.c.id == task_files.c.task_id)
        .where(files.c.task_id.in_(task_ids), readers.c.finished_at.is_(None))
    )


def erase_tasks(task_ids: Sequence[UUID]) -> list[Executable]:
    """Erase done tasks: their artifacts' rows, payloads, history, uniqueness, receipts; and leave tombstones.

    In this order, in one transaction; the artifacts' objects are deleted after its commit.
    """
    ids = list(task_ids)
    buried = ["id", "subject", "organization_id", "owner_id"]
    gone_tasks = select(tasks.c.id, literal("task"), tasks.c.organization_id, tasks.c.owner_id).where(
        tasks.c.id.in_(ids)
    )
    gone_files = select(files.c.id, literal("file"), files.c.organization_id, files.c.owner_id).where(
        files.c.task_id.in_(ids)
    )
    return [
        insert(tombstones).from_select(buried, gone_tasks).on_conflict_do_nothing(),
        insert(tombstones).from_select(buried, gone_files).on_conflict_do_nothing(),
        delete(unique_tasks).where(unique_tasks.c.task_id.in_(ids)),
        delete(email_receipts).where(email_receipts.c.task_id.in_(ids)),
        delete(email_intents).where(email_intents.c.task_id.in_(ids)),
        delete(task_events).where(task_events.c.task_id.in_(ids)),
        delete(task_files).where(task_files.c.task_id.in_(ids)),
        delete(files).where(files.c.task_id.in_(ids)),
        delete(task_payloads).where(task_payloads.c.task_id.in_(ids)),
        delete(tasks).where(tasks.c.id.in_(ids)),
    ]


def drop_old_idempotency_keys(limit: int) -> Executable:
    """Drop keys that are no longer kept."""
    old = (
        select(idempotency_keys.c.owner_id, idempotency_keys.c.key)
        .where(idempotency_keys.c.created_at < func.now() - timedelta(hours=KEPT_HOURS))
        .limit(limit)
    )
    return delete(idempotency_keys).where(tuple_(idempotency_keys.c.owner_id, idempotency_keys.c.key).in_(old))


def drop_old_tombstones(limit: int, days: int) -> Executable:
    """Forget what was purged so many days ago."""
    old = select(tombstones.c.id).where(tombstones.c.purged_at < func.now() - timedelta(days=days)).limit(limit)
    return delete(tombstones).where(tombstones.c.id.in_(old))


_WORKER_LOST: Final = orjson.dumps(
    {
        "type": "/problems/worker-lost",
        "title": "Worker lost",
        "detail": "The worker that did the task stopped responding.",
        "retryable": True,
        "data": {},
    }
).decode()

_EXPIRED: Final = orjson.dumps(
    {
        "type": "/problems/expired",
        "title": "Expired",
        "detail": "No attempt, or no further one, was started within the ttl.",
        "retryable": True,
        "data": {},
    }
).decode()

PROMOTE: Final = f"""
WITH due AS (
    SELECT id FROM tasks WHERE status IN ('scheduled', 'retrying') AND coalesce(next_attempt_at, run_at) <= now()
    ORDER BY coalesce(next_attempt_at, run_at) LIMIT %(limit)s FOR UPDATE SKIP LOCKED
),
u AS (
    UPDATE tasks t SET status = 'queued', next_attempt_at = NULL, rung_at = NULL, version = t.version + 1
    FROM due WHERE t.id = due.id RETURNING t.id, t.version
),
e AS (
    INSERT INTO task_events (task_id, seq, type, data)
    SELECT id, version, 'status', jsonb_build_object('status', 'queued') FROM u
)
SELECT count(*), CASE WHEN count(*) > 0 THEN pg_notify('{DUE_CHANNEL}', '') END FROM u"""
"""Queue what is due: scheduled tasks, and those that wait for their next attempt. Gives how many."""

SWEEP: Final = f"""
WITH lost AS (
    SELECT id FROM tasks WHERE status = 'running' AND lease_until < now()
    ORDER BY lease_until LIMIT %(limit)s FOR UPDATE SKIP LOCKED
),
u AS (
    UPDATE tasks t SET
        status = CASE WHEN t.cancel_requested_at IS NOT NULL THEN 'cancelled'
            WHEN t.attempt < t.max_attempts THEN 'retrying' ELSE 'failed' END,
        claim = NULL, lease_until = NULL, rung_at = NULL, named_claim = {NAME_THE_CLAIM}, version = t.version + 1,
        next_attempt_at = CASE WHEN t.cancel_requested_at IS NULL AND t.attempt < t.max_attempts
            THEN now() + least(60, power(2, least(t.attempt, 10) - 1)) * (0.5 + random() / 2) * interval '1 second' END,
        finished_at = CASE WHEN t.cancel_requested_at IS NOT NULL OR t.attempt >= t.max_attempts THEN now() END,
        purge_at = CASE WHEN t.cancel_requested_at IS NOT NULL OR t.attempt >= t.max_attempts
            THEN now() + t.keep_seconds * interval '1 second' END
    FROM lost WHERE t.id = lost.id RETURNING t.id, t.version, t.status, t.attempt
),
p AS (
    UPDATE task_payloads p SET error = CASE u.status WHEN 'retrying' THEN '{_WORKER_LOST}'::jsonb
        WHEN 'cancelled' THEN {end_with(f"'{CANCELLED_ERROR}'::jsonb")}
        ELSE {end_with(f"'{_WORKER_LOST}'::jsonb")} END || jsonb_build_object('attempt', u.attempt)
    FROM u WHERE p.task_id = u.id
),
e AS (
    INSERT INTO task_events (task_id, seq, type, data)
    SELECT id, version, 'status', jsonb_build_object('status', status, 'attempt', attempt, 'reason', 'worker-lost') FROM u
)
SELECT id, status FROM u"""
"""Take back the attempts whose lease is over: they count. Gives (id, status)."""

EXPIRE: Final = f"""
WITH late AS (
    SELECT id FROM tasks
    WHERE expires_at IS NOT NULL AND status IN ('scheduled', 'queued', 'retrying') AND expires_at <= now()
    ORDER BY expires_at LIMIT %(limit)s FOR UPDATE SKIP LOCKED
),
u AS (
    UPDATE tasks t SET status = 'expired', next_attempt_at = NULL, rung_at = NULL, version = t.version + 1,
        finished_at = now(), purge_at = now() + t.keep_seconds * interval '1 second'
    FROM late WHERE t.id = late.id RETURNING t.id, t.version, t.attempt
),
p AS (
    UPDATE task_payloads p SET error = {end_with(f"'{_EXPIRED}'::jsonb")} || jsonb_build_object('attempt', u.attempt)
    FROM u WHERE p.task_id = u.id
),
e AS (
    INSERT INTO task_events (task_id, seq, type, data)
    SELECT id, version, 'status', jsonb_build_object('status', 'expired') FROM u
)
SELECT id FROM u"""
"""Expire what was not started within its ttl. Gives the ids."""

RERING: Final = """
WITH silent AS (
    SELECT id FROM tasks WHERE queue = %(queue)s AND status = 'queued' AND rung_at IS NOT NULL
        AND rung_at < coalesce(
            (SELECT o.rung_at FROM tasks o WHERE o.id = %(oldest)s::uuid AND o.status = 'queued'),
            now() - CASE WHEN %(oldest)s::uuid IS NULL THEN 0 ELSE 3 END * %(seconds)s * interval '1 second'
        ) - %(seconds)s * interval '1 second'
    ORDER BY rung_at LIMIT %(limit)s FOR UPDATE SKIP LOCKED
)
UPDATE tasks t SET rung_at = NULL FROM silent WHERE t.id = silent.id RETURNING t.id"""
"""Let what was published so many seconds ago and never claimed be published again. Gives the ids.

`oldest` is the task of the oldest message that waits in the broker: what was published after it waits there too, so only
what was published so long before it is lost. When that task is claimed already it says nothing, and more time is given.
"""

UNRING: Final = """
UPDATE tasks SET rung_at = NULL WHERE id = ANY(%(ids)s::uuid[]) AND status = 'queued'"""
"""Take back the mark of what could not be published."""

TRY_LOCK: Final = "SELECT pg_try_advisory_lock(%(key)s)"
"""Take an advisory lock for as long as the connection lasts. Gives whether nobody else has it."""
