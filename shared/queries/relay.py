"""Statements of the relay's chores: promote, sweep, expire and republish tasks. Plain SQL for psycopg.

Each move writes its event in the same statement.
"""

from __future__ import annotations

from typing import Final

import orjson

from shared.queries.hot_tasks import CANCELLED_ERROR, DUE_CHANNEL, NAME_THE_CLAIM
from shared.queries.unknown_deliveries import end_with

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
