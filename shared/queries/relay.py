"""Statements of the relay's chores: promote, sweep and expire tasks. Plain SQL for psycopg.

Each move writes its event in the same statement.
"""

from __future__ import annotations

from typing import Final

import orjson

from shared.queries.hot_tasks import CANCELLED_ERROR, DUE_CHANNEL, NAME_THE_CLAIM
from shared.queries.unknown_deliveries import final_error

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

_SWEPT_BACKOFF_SECONDS: Final = """least(coalesce((task.backoff->>'longest_seconds')::float8, 60),
                coalesce((task.backoff->>'first_seconds')::float8, 1) * power(2, least(task.attempt, 31) - 1))"""
"""The backoff of a swept task, before jitter: its own, as `RetryPolicy` computes it, or from 1 to 60 seconds."""

PROMOTE: Final = f"""
WITH due AS (
    SELECT id FROM tasks WHERE status IN ('scheduled', 'retrying') AND coalesce(next_attempt_at, run_at) <= now()
    ORDER BY coalesce(next_attempt_at, run_at) LIMIT %(limit)s FOR UPDATE SKIP LOCKED
),
queued AS (
    UPDATE tasks task SET status = 'queued', next_attempt_at = NULL, rung_at = NULL, turn = NULL, version = task.version + 1
    FROM due WHERE task.id = due.id RETURNING task.id, task.version
),
event AS (
    INSERT INTO task_events (task_id, seq, type, data)
    SELECT id, version, 'status', jsonb_build_object('status', 'queued') FROM queued
)
SELECT coalesce(array_agg(id), '{{}}'), CASE WHEN count(*) > 0 THEN pg_notify('{DUE_CHANNEL}', '') END FROM queued"""
"""Queue the scheduled and retrying tasks whose time has come. Returns one row, whose first column is the list of their ids."""

SWEEP: Final = f"""
WITH lost AS (
    SELECT id FROM tasks WHERE status = 'running' AND lease_until < now()
    ORDER BY lease_until LIMIT %(limit)s FOR UPDATE SKIP LOCKED
),
ended AS (
    UPDATE tasks task SET
        status = CASE WHEN task.cancel_requested_at IS NOT NULL THEN 'cancelled'
            WHEN task.attempt < task.max_attempts THEN 'retrying' ELSE 'failed' END,
        claim = NULL, lease_until = NULL, rung_at = NULL, turn = NULL, named_claim = {NAME_THE_CLAIM},
        version = task.version + 1,
        next_attempt_at = CASE WHEN task.cancel_requested_at IS NULL AND task.attempt < task.max_attempts
            THEN now() + {_SWEPT_BACKOFF_SECONDS} * (0.5 + random() / 2) * interval '1 second' END,
        finished_at = CASE WHEN task.cancel_requested_at IS NOT NULL OR task.attempt >= task.max_attempts THEN now() END,
        purge_at = CASE WHEN task.cancel_requested_at IS NOT NULL OR task.attempt >= task.max_attempts
            THEN now() + task.keep_seconds * interval '1 second' END
    FROM lost WHERE task.id = lost.id RETURNING task.id, task.kind, task.version, task.status, task.attempt
),
payload AS (
    UPDATE task_payloads payload SET error = CASE ended.status WHEN 'retrying' THEN '{_WORKER_LOST}'::jsonb
        WHEN 'cancelled' THEN {final_error(f"'{CANCELLED_ERROR}'::jsonb")}
        ELSE {final_error(f"'{_WORKER_LOST}'::jsonb")} END || jsonb_build_object('attempt', ended.attempt)
    FROM ended WHERE payload.task_id = ended.id
),
event AS (
    INSERT INTO task_events (task_id, seq, type, data)
    SELECT id, version, 'status', jsonb_build_object('status', status, 'attempt', attempt, 'reason', 'worker-lost') FROM ended
)
SELECT ended.id, ended.kind, ended.status, (
    SELECT event.data->>'worker' FROM task_events event
    WHERE event.task_id = ended.id AND event.data->>'status' = 'running' ORDER BY event.seq DESC LIMIT 1) AS worker
FROM ended"""
"""Sweep the tasks whose lease was lost: to retrying, failed or cancelled. The attempt counts.

Returns (id, kind, status, worker). `worker` is the name of the worker process that claimed the attempt.
"""

EXPIRE: Final = f"""
WITH late AS (
    SELECT id FROM tasks
    WHERE expires_at IS NOT NULL AND status IN ('scheduled', 'queued', 'retrying') AND expires_at <= now()
        -- A step that waits must not be locked before its workflow, in which a transaction may be starting that step.
        AND (workflow_id IS NULL OR EXISTS (
            SELECT FROM workflows AS workflow WHERE workflow.id = tasks.workflow_id FOR NO KEY UPDATE SKIP LOCKED))
    ORDER BY expires_at LIMIT %(limit)s FOR UPDATE SKIP LOCKED
),
ended AS (
    UPDATE tasks task SET status = 'expired', next_attempt_at = NULL, rung_at = NULL, turn = NULL, blocked_at = NULL,
        version = task.version + 1, finished_at = now(), purge_at = now() + task.keep_seconds * interval '1 second'
    FROM late WHERE task.id = late.id RETURNING task.id, task.version, task.attempt
),
payload AS (
    UPDATE task_payloads payload
    SET error = {final_error(f"'{_EXPIRED}'::jsonb")} || jsonb_build_object('attempt', ended.attempt)
    FROM ended WHERE payload.task_id = ended.id
),
event AS (
    INSERT INTO task_events (task_id, seq, type, data)
    SELECT id, version, 'status', jsonb_build_object('status', 'expired') FROM ended
)
SELECT id FROM ended"""
"""Expire the tasks that were not started within their ttl. Returns the ids. Tasks of locked workflows are left for later."""

TRY_LOCK: Final = "SELECT pg_try_advisory_lock(%(key)s)"
"""Try to acquire an advisory lock until the connection ends. Returns False if another connection has it."""
