"""The hot statements on tasks: submit, read, claim, renew, report progress, finish.

Each is plain SQL for psycopg, sync or async, for a connection of `shared.database.connections` that plans index scans only.
Tasks that arrive together are passed as one JSON document or as arrays, so that one round trip and one commit serve many.
Every change of status writes its event in the same statement. The `seq` of an event is the `version` of the task after it, so
that the history of a task has no gap.

Rows are joined by `id = ANY (ARRAY[other.id])`, which means the same as `id = other.id` and can only be planned as an index
lookup for each row. For `=`, Postgres may plan to scan the whole table for each row while its statistics say that the table
is small, that is, until the next ANALYZE.

Two statements exist in several forms, which differ by whole common table expressions: `SUBMIT` and `FINISH`. A form without
unneeded parts takes half the time. The text of each form is constant and never contains values of a request.
"""

from __future__ import annotations

from typing import Final

import orjson

from shared.queries.unknown_deliveries import final_error
from shared.tasks.states import DONE_VALUES

DUE_CHANNEL: Final = "taskmill_due"
"""The NOTIFY channel of notices: every commit that makes tasks due notifies the relay. The payload names the queues, separated
by commas; an empty payload means that the relay must look for them."""

NAME_THE_CLAIM: Final = "CASE WHEN task.named_claim = task.claim THEN ~task.claim ELSE task.claim END"
"""The value that an UPDATE of a running row must set `named_claim` to. The fence refuses any other. The alias must be `task`."""

_DONE: Final = ", ".join(f"'{status}'" for status in sorted(DONE_VALUES))

_SUBMITTED_COLUMNS: Final = """
    id uuid, kind text, kind_version int2, queue text, status text, organization_id uuid, owner_id uuid, api_key_id uuid,
    priority int2, max_attempts int2, timeout_seconds int, keep_seconds int, run_at timestamptz, delay float8, ttl int,
    batch_id uuid, parent_id uuid, schedule_id uuid, traceparent text, request_id text, tags text, metadata jsonb,
    params jsonb, files json, idempotency_key text, fingerprint text, backoff jsonb, rerun_of uuid"""

_INSERT_ROWS: Final = """task AS (
    INSERT INTO tasks (id, kind, kind_version, queue, status, organization_id, owner_id, api_key_id, priority, max_attempts,
        timeout_seconds, keep_seconds, run_at, ttl, expires_at, batch_id, parent_id, schedule_id, traceparent, request_id,
        tags, metadata, backoff, rerun_of{more})
    SELECT id, kind, kind_version, queue, status, organization_id, owner_id, api_key_id, priority, max_attempts,
        timeout_seconds, keep_seconds, coalesce(run_at, now() + delay * interval '1 second'), ttl,
        now() + ttl * interval '1 second', batch_id, parent_id, schedule_id, traceparent, request_id,
        coalesce(tags, '{{}}')::text[], coalesce(metadata, '{{}}'), backoff, rerun_of{more}
    FROM submitted
    RETURNING id
),
payload AS (INSERT INTO task_payloads (task_id, params) SELECT id, params FROM submitted),
event AS (
    INSERT INTO task_events (task_id, seq, type, data)
    SELECT id, 1, 'status', jsonb_build_object('status', status) FROM submitted
)"""
"""Insert the tasks, payloads and first events of the rows of `submitted`; `more` names further columns of both."""
_INSERT_TASKS: Final = _INSERT_ROWS.format(more="")
_INSERT_KEYED_TASKS: Final = _INSERT_ROWS.format(more=", key_limits")

_ANSWER_SUBMISSION: Final = f"""
SELECT now() AS created_at, pg_notify('{DUE_CHANNEL}', (SELECT string_agg(DISTINCT queue, ',') FROM submitted)) AS notified,
    (SELECT array_agg(id) FROM task) AS ids"""

SUBMIT: Final = f"""
WITH submitted AS MATERIALIZED (
    SELECT * FROM json_to_recordset(%(document)s::json) AS submitted ({_SUBMITTED_COLUMNS})
),
{_INSERT_TASKS}
{_ANSWER_SUBMISSION}"""
"""Insert tasks without idempotency keys, input files, follow-ups or limits of keys. Returns (created_at, notified, ids)."""

SUBMIT_KEYED: Final = f"""
WITH asked AS MATERIALIZED (
    SELECT * FROM json_to_recordset(%(document)s::json) AS asked ({_SUBMITTED_COLUMNS}, follow_up jsonb, key_limits jsonb)
),
kept_key AS (
    INSERT INTO idempotency_keys (owner_id, key, fingerprint, subject_id, status_code)
    SELECT owner_id, idempotency_key, decode(fingerprint, 'hex'), coalesce(batch_id, id), 202
    FROM asked WHERE idempotency_key IS NOT NULL ORDER BY owner_id, idempotency_key
    ON CONFLICT (owner_id, key) DO NOTHING
    RETURNING subject_id
),
submitted AS MATERIALIZED (
    SELECT asked.* FROM asked
    WHERE asked.idempotency_key IS NULL
        OR EXISTS (SELECT FROM kept_key WHERE kept_key.subject_id = coalesce(asked.batch_id, asked.id))
),
{_INSERT_KEYED_TASKS},
input_file AS (
    INSERT INTO task_files (task_id, file_id, role, position)
    SELECT submitted.id, input.file_id::uuid, 'input', min(input.position)
    FROM submitted CROSS JOIN LATERAL json_array_elements_text(submitted.files) WITH ORDINALITY AS input (file_id, position)
    GROUP BY submitted.id, input.file_id
),
follow_up AS (
    INSERT INTO task_follow_ups (task_id, webhook_url, webhook_secret, notify)
    SELECT id, follow_up->>'webhook_url', follow_up->>'webhook_secret', follow_up->'notify' FROM submitted
    WHERE follow_up IS NOT NULL
)
{_ANSWER_SUBMISSION}"""
"""Insert tasks that may have an idempotency key, input files, follow-ups or limits of keys; a task whose key is taken is left out.

Returns (created_at, notified, ids), the ids of those inserted.

A key is also taken by a task of the same statement: of several tasks with one key, one is inserted. A file that is gone
violates a foreign key and fails the whole statement.
"""

_SHOWN_COLUMNS: Final = """
    task.id, task.kind, task.queue, task.status, task.progress_percent, task.progress_message, task.attempt, task.max_attempts,
    task.next_attempt_at, task.priority, payload.params::text, payload.result::text, payload.error::text,
    CASE WHEN task.status = 'succeeded' THEN (
        SELECT json_agg(json_build_object('id', file.id, 'name', file.name, 'media_type', file.media_type, 'size', file.size,
            'sha256', encode(file.sha256, 'hex'), 'url', '/files/' || file.id || '/content',
            'expires_at', to_char(task.purge_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')) ORDER BY artifact.position)
        FROM task_files artifact JOIN files file ON file.id = ANY (ARRAY[artifact.file_id])
        WHERE artifact.task_id = task.id AND artifact.role = 'artifact')::text
    END,
    task.tags, task.metadata::text, task.batch_id, task.created_at, task.run_at, task.started_at, task.finished_at,
    task.cancel_requested_at, task.purge_at, task.version, task.organization_id, task.turn, task.workflow_id,
    task.workflow_step, task.rerun_of, task.parent_id, task.schedule_id, task.key_limits::text"""

_VISIBLE: Final = """
    unnest(%(ids)s::uuid[], %(organizations)s::uuid[]) AS asked (id, organization_id)
    JOIN tasks task ON task.id = ANY (ARRAY[asked.id])
        AND (asked.organization_id IS NULL OR task.organization_id = asked.organization_id)"""
"""The requested tasks that belong to the organization passed with their id, or to any if that is NULL."""

READ: Final = f"""
SELECT {_SHOWN_COLUMNS}
FROM {_VISIBLE} JOIN task_payloads payload ON payload.task_id = ANY (ARRAY[task.id])"""
"""Read tasks by id, in the columns of `api.following.task_representation.TaskRow`, in no order."""

READ_VERSIONS: Final = f"""
SELECT task.id, task.version, task.status, task.organization_id, task.queue, task.kind, task.turn, task.created_at,
    task.run_at, task.next_attempt_at
FROM {_VISIBLE}"""
"""Read of tasks what is needed for a 304 or to see whether they are done, in the columns of
`api.following.task_reader.TaskVersion`."""

READ_CHANGES: Final = """
SELECT known.id FROM unnest(%(ids)s::uuid[], %(versions)s::int[]) AS known (id, version)
LEFT JOIN tasks task ON task.id = ANY (ARRAY[known.id])
WHERE task.version IS DISTINCT FROM known.version"""
"""Return the ids of tasks whose version differs from the given one, or which no longer exist."""

CLAIM: Final = """
WITH next AS MATERIALIZED (
    SELECT next.id, row_number() OVER () AS place
    FROM unnest(%(queues)s::text[], %(counts)s::int[]) AS wanted (queue, tasks) CROSS JOIN LATERAL (
        SELECT task.id FROM tasks task
        WHERE task.queue = wanted.queue AND task.status = 'queued' AND task.rung_at IS NOT NULL
            AND task.kind = ANY(%(kinds)s::text[]) AND (task.expires_at IS NULL OR task.expires_at > now())
        ORDER BY task.turn NULLS FIRST, task.id LIMIT wanted.tasks FOR UPDATE SKIP LOCKED) AS next
),
claimed AS (
    UPDATE tasks task SET status = 'running', claim = (%(claims)s::bigint[])[next.place], named_claim = NULL,
        attempt = task.attempt + 1, version = task.version + 1, started_at = clock_timestamp(),
        lease_until = clock_timestamp() + %(lease)s * interval '1 second', progress_percent = NULL, progress_message = NULL
    FROM next, task_payloads payload
    WHERE task.id = ANY (ARRAY[next.id]) AND payload.task_id = ANY (ARRAY[next.id])
    RETURNING task.id, task.claim, task.attempt, task.max_attempts, task.kind, task.queue, task.timeout_seconds,
        task.organization_id, task.owner_id, task.request_id, payload.params::text, task.version, task.backoff::text,
            next.place
),
event AS (
    INSERT INTO task_events (task_id, seq, type, data)
    SELECT id, version, 'status', jsonb_build_object('status', 'running', 'attempt', attempt, 'worker', %(worker)s::text)
    FROM claimed
)
SELECT id, claim, attempt, max_attempts, kind, queue, timeout_seconds, organization_id, owner_id, request_id, params, backoff
FROM claimed ORDER BY place"""
"""Claim the next published tasks of some queues, by turn: of the queue `queues[n]`, up to `counts[n]`.

`claims` has a random claim for each task that may be taken; a task whose kind is not in `kinds` is left to other workers.
`worker` names the worker process, for operators.
Returns the columns of `workers.engine.attempt.ClaimedTask`, by queue and turn.
"""

# The following statements filter by claim and not by status. A row has a claim if and only if it is running (a constraint of
# the table), and with a condition on the status Postgres would read the index of all running rows for each row.

RENEW: Final = f"""
UPDATE tasks task SET lease_until = clock_timestamp() + %(lease)s * interval '1 second', named_claim = {NAME_THE_CLAIM}
FROM unnest(%(ids)s::uuid[], %(claims)s::bigint[]) AS held (id, claim)
WHERE task.id = ANY (ARRAY[held.id]) AND task.claim = held.claim
RETURNING task.id, task.cancel_requested_at IS NOT NULL AS is_cancel_requested"""
"""Renew leases. Returns (id, is_cancel_requested) for each claim that still holds."""

HOLD_CLAIM: Final = "SELECT FROM tasks WHERE id = %(id)s AND claim = %(claim)s FOR UPDATE"
"""Lock a running row for a transaction of its attempt. Returns a row only while the claim holds."""

REPORT_PROGRESS: Final = f"""
WITH reported AS (
    UPDATE tasks task SET progress_percent = %(percent)s, progress_message = %(message)s, version = task.version + 1,
        named_claim = {NAME_THE_CLAIM}
    WHERE task.id = %(id)s AND task.claim = %(claim)s
    RETURNING task.id, task.version, task.cancel_requested_at IS NOT NULL AS is_cancel_requested
),
event AS (
    INSERT INTO task_events (task_id, seq, type, data)
    SELECT id, version, 'progress', jsonb_build_object('percent', %(percent)s::int, 'message', %(message)s::text) FROM reported
)
SELECT is_cancel_requested FROM reported"""
"""Write an attempt's progress. Returns whether a cancel is requested, or no row if the claim is lost."""

WRITE_LOG: Final = f"""
WITH line AS MATERIALIZED (
    SELECT * FROM json_to_recordset(%(document)s::json) AS line (position int, age float8, data jsonb)
),
logged AS (
    UPDATE tasks task SET version = task.version + %(count)s::int, named_claim = {NAME_THE_CLAIM}
    WHERE task.id = %(id)s AND task.claim = %(claim)s
    RETURNING task.id, task.version, task.cancel_requested_at IS NOT NULL AS is_cancel_requested
),
event AS (
    INSERT INTO task_events (task_id, seq, at, type, data)
    SELECT logged.id, logged.version - %(count)s::int + line.position, clock_timestamp() - line.age * interval '1 second',
        'log', line.data
    FROM logged CROSS JOIN line
)
SELECT is_cancel_requested FROM logged"""
"""Write log lines of an attempt: `count` of them, each with its position from 1 and its age in seconds.

Returns whether a cancel is requested, or no row if the claim is lost.
"""

CANCELLED_ERROR: Final = orjson.dumps(
    {
        "type": "/problems/cancelled",
        "title": "Cancelled",
        "detail": "A caller cancelled the task.",
        "retryable": False,
        "data": {},
    }
).decode()

_NEXT_STATUS: Final = """CASE WHEN ending.status IN ('retrying', 'queued') AND task.cancel_requested_at IS NOT NULL
            THEN 'cancelled' ELSE ending.status END"""

_FINISH_TASKS: Final = f"""
WITH ending AS MATERIALIZED (
    SELECT * FROM json_to_recordset(%(document)s::json) AS ending (
        id uuid, claim bigint, status text, result jsonb, error jsonb, delay float8, artifacts json)
),
ended AS (
    UPDATE tasks task SET
        status = {_NEXT_STATUS},
        claim = NULL, lease_until = NULL, rung_at = NULL, named_claim = {NAME_THE_CLAIM}, version = task.version + 1,
        turn = CASE WHEN {_NEXT_STATUS} = 'queued' THEN task.turn END,
        attempt = task.attempt - CASE WHEN {_NEXT_STATUS} = 'queued' THEN 1 ELSE 0 END,
        next_attempt_at = CASE WHEN {_NEXT_STATUS} = 'retrying' THEN clock_timestamp() + ending.delay * interval '1 second' END,
        finished_at = CASE WHEN {_NEXT_STATUS} IN ({_DONE}) THEN clock_timestamp() END,
        purge_at = CASE WHEN {_NEXT_STATUS} IN ({_DONE}) THEN clock_timestamp() + task.keep_seconds * interval '1 second' END,
        started_at = CASE WHEN {_NEXT_STATUS} <> 'queued' THEN task.started_at END
    FROM ending WHERE task.id = ANY (ARRAY[ending.id]) AND task.claim = ending.claim
    RETURNING task.id, task.version, task.status, task.attempt, task.organization_id, task.owner_id, task.purge_at,
        ending.result, ending.artifacts,
        CASE WHEN task.status = 'cancelled' AND ending.status <> 'cancelled'
            THEN '{CANCELLED_ERROR}'::jsonb || jsonb_build_object('attempt', task.attempt) ELSE ending.error END AS error
),
event AS (
    INSERT INTO task_events (task_id, seq, type, data)
    SELECT id, version, 'status', jsonb_build_object('status', status, 'attempt', attempt) FROM ended
)"""

_WRITE_OUTCOME: Final = """payload AS (
    UPDATE task_payloads payload SET result = ended.result, error = ended.error
    FROM ended WHERE payload.task_id = ANY (ARRAY[ended.id])
)"""

# The recipients' outcomes come from intents and receipts, unless the error of the handler contains them already.
_WRITE_FINAL_OUTCOME: Final = f"""payload AS (
    UPDATE task_payloads payload SET result = ended.result, error =
        CASE WHEN ended.status IN ('failed', 'cancelled') AND ended.error->'data'->'recipients' IS NULL
        THEN {final_error("ended.error")} || jsonb_build_object('attempt', ended.attempt) ELSE ended.error END
    FROM ended WHERE payload.task_id = ANY (ARRAY[ended.id])
)"""

_KEEP_ARTIFACTS: Final = """artifact AS MATERIALIZED (
    SELECT ended.id AS task_id, ended.organization_id, ended.owner_id, ended.purge_at, artifact.*
    FROM ended CROSS JOIN LATERAL json_to_recordset(ended.artifacts) AS artifact (
        file_id uuid, name text, media_type text, size bigint, sha256 text, storage_key text, position int2)
    WHERE ended.status = 'succeeded'
),
file AS (
    INSERT INTO files (id, organization_id, owner_id, name, media_type, size, sha256, origin, task_id, storage_key, expires_at)
    SELECT file_id, organization_id, owner_id, name, media_type, size, decode(sha256, 'hex'), 'task', task_id, storage_key,
        purge_at FROM artifact
),
task_file AS (
    INSERT INTO task_files (task_id, file_id, role, position) SELECT task_id, file_id, 'artifact', position FROM artifact
)"""

FINISH: Final = f"{_FINISH_TASKS},\n{_WRITE_OUTCOME}\nSELECT id, status FROM ended"
"""Finish attempts that succeeded and made no artifacts, by their claims. Returns (id, status) for each claim that still held.

`status` is the state that the attempt wants; one that would wait again (`retrying`, or `queued` for requeued work) becomes
`cancelled` if a cancel is requested. A lost claim returns no row and changes nothing. A requeued task keeps its turn.
"""

FINISH_WITH_ARTIFACTS: Final = f"{_FINISH_TASKS},\n{_WRITE_OUTCOME},\n{_KEEP_ARTIFACTS}\nSELECT id, status FROM ended"
"""Finish attempts that succeeded: as `FINISH`, and their artifacts become files."""

FINISH_ANY: Final = f"{_FINISH_TASKS},\n{_WRITE_FINAL_OUTCOME},\n{_KEEP_ARTIFACTS}\nSELECT id, status FROM ended"
"""Finish attempts, however they ended: as `FINISH_WITH_ARTIFACTS`, and a task that ends without success says what is known
of what it sent."""
