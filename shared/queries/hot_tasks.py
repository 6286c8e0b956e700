"""The hot statements on tasks: submit, read, release, claim, renew, report, finish.

Each is plain SQL for psycopg, sync or async, run on a connection of `shared.database.connections` that knows only index plans. Each
takes what has gathered as one JSON document or as arrays, so that one round trip and one commit serve many. Every move
writes its event in the same statement; an event's `seq` is the task's `version` after it, so a task's history has no gap.

Where rows are named from outside, they are looked up by `id = ANY (ARRAY[other.id])`, which is `id = other.id` and leaves
Postgres one way: an index lookup for each. Given an equation it may read the whole table once for each row that is looked
for, as long as it believes that the table has a few rows, and it believes so until it looks again.
"""

from __future__ import annotations

from typing import Final

import orjson

from shared.queries.unknown_deliveries import end_with
from shared.tasks.states import DONE_VALUES

DUE_CHANNEL: Final = "taskmill_due"
"""The NOTIFY channel on which every commit that makes tasks due rings the relay. The payload names their queues, separated by
commas, where that is known: then the relay need not look for them."""

LISTEN: Final = f"LISTEN {DUE_CHANNEL}"
"""Hear when something falls due."""

NOTIFY: Final = f"NOTIFY {DUE_CHANNEL}"
"""Say that something may be due."""

NAME_THE_CLAIM: Final = "CASE WHEN t.named_claim = t.claim THEN ~t.claim ELSE t.claim END"
"""What an UPDATE of a running row must set `named_claim` to, or the fence refuses it."""

_DONE: Final = ", ".join(f"'{status}'" for status in sorted(DONE_VALUES))

_SUBMITTED_COLUMNS: Final = """
    id uuid, kind text, kind_version int2, queue text, status text, organization_id uuid, owner_id uuid, api_key_id uuid,
    priority int2, max_attempts int2, timeout_seconds int, keep_seconds int, run_at timestamptz, delay float8, ttl int,
    batch_id uuid, parent_id uuid, schedule_id uuid, traceparent text, request_id text, tags text, metadata jsonb,
    params jsonb, files json, idempotency_key text, fingerprint text"""


def _submit(*, keyed: bool) -> str:
    keys = """,
k AS (
    INSERT INTO idempotency_keys (owner_id, key, fingerprint, subject_id, status_code)
    SELECT owner_id, idempotency_key, decode(fingerprint, 'hex'), coalesce(batch_id, id), 202
    FROM v WHERE idempotency_key IS NOT NULL ORDER BY owner_id, idempotency_key
    ON CONFLICT (owner_id, key) DO NOTHING
    RETURNING subject_id
),
n AS MATERIALIZED (
    SELECT v.* FROM v
    WHERE v.idempotency_key IS NULL OR EXISTS (SELECT FROM k WHERE k.subject_id = coalesce(v.batch_id, v.id))
)"""
    files = """,
f AS (
    INSERT INTO task_files (task_id, file_id, role, position)
    SELECT n.id, x.file_id::uuid, 'input', min(x.position)
    FROM n CROSS JOIN LATERAL json_array_elements_text(n.files) WITH ORDINALITY AS x (file_id, position)
    GROUP BY n.id, x.file_id
)"""
    return f"""
WITH v AS MATERIALIZED (SELECT * FROM json_to_recordset(%(document)s::json) AS v ({_SUBMITTED_COLUMNS})){keys if keyed else ""},
t AS (
    INSERT INTO tasks (id, kind, kind_version, queue, status, organization_id, owner_id, api_key_id, priority, max_attempts,
        timeout_seconds, keep_seconds, run_at, ttl, expires_at, batch_id, parent_id, schedule_id, traceparent, request_id,
        tags, metadata)
    SELECT id, kind, kind_version, queue, status, organization_id, owner_id, api_key_id, priority, max_attempts,
        timeout_seconds, keep_seconds, coalesce(run_at, now() + delay * interval '1 second'), ttl,
        now() + ttl * interval '1 second', batch_id, parent_id, schedule_id, traceparent, request_id,
        coalesce(tags, '{{}}')::text[], coalesce(metadata, '{{}}')
    FROM {"n" if keyed else "v"}
    RETURNING id
),
p AS (INSERT INTO task_payloads (task_id, params) SELECT id, params FROM {"n" if keyed else "v"}),
e AS (
    INSERT INTO task_events (task_id, seq, type, data)
    SELECT id, 1, 'status', jsonb_build_object('status', status) FROM {"n" if keyed else "v"}
){files if keyed else ""}
SELECT now() AS created_at, pg_notify('{DUE_CHANNEL}', (SELECT string_agg(DISTINCT queue, ',') FROM v)) AS notified,
    (SELECT array_agg(id) FROM t) AS ids"""


SUBMIT: Final = _submit(keyed=False)
"""Insert tasks without idempotency keys or input files. Returns (created_at, notified, ids)."""

SUBMIT_KEYED: Final = _submit(keyed=True)
"""Insert tasks that may bear a key or input files; a task whose key is taken is left out.

Returns (created_at, notified, ids), the ids of those inserted.

A key is taken by a task of the same statement too: of those that bear one key, one is inserted.

A file that is gone violates a foreign key and fails the whole statement.
"""

_SHOWN_COLUMNS: Final = """
    t.id, t.kind, t.queue, t.status, t.progress_percent, t.progress_message, t.attempt, t.max_attempts, t.next_attempt_at,
    t.priority, p.params::text, p.result::text, p.error::text,
    CASE WHEN t.status = 'succeeded' THEN (
        SELECT json_agg(json_build_object('id', f.id, 'name', f.name, 'media_type', f.media_type, 'size', f.size,
            'sha256', encode(f.sha256, 'hex'), 'url', '/files/' || f.id || '/content',
            'expires_at', to_char(t.purge_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')) ORDER BY x.position)
        FROM task_files x JOIN files f ON f.id = ANY (ARRAY[x.file_id]) WHERE x.task_id = t.id AND x.role = 'artifact')::text
    END,
    t.tags, t.metadata::text, t.batch_id, t.created_at, t.run_at, t.started_at, t.finished_at, t.cancel_requested_at,
    t.purge_at, t.version, t.organization_id"""

_VISIBLE: Final = """
    unnest(%(ids)s::uuid[], %(organizations)s::uuid[]) AS asked (id, organization_id)
    JOIN tasks t ON t.id = ANY (ARRAY[asked.id])
        AND (asked.organization_id IS NULL OR t.organization_id = asked.organization_id)"""
"""Each task asked for, if it belongs to the organization named beside its id, or if none is named."""

READ: Final = f"""
SELECT {_SHOWN_COLUMNS}
FROM {_VISIBLE} JOIN task_payloads p ON p.task_id = ANY (ARRAY[t.id])"""
"""Read tasks by id, in the columns of `api.following.task_representation.TaskRow`, in no order."""

READ_VERSIONS: Final = f"SELECT t.id, t.version, t.status, t.organization_id FROM {_VISIBLE}"
"""Read what is needed to answer 304, or to see whether a task is done."""

READ_CHANGES: Final = """
SELECT v.id FROM unnest(%(ids)s::uuid[], %(versions)s::int[]) AS v (id, version) LEFT JOIN tasks t ON t.id = ANY (ARRAY[v.id])
WHERE t.version IS DISTINCT FROM v.version"""
"""Give the ids of those tasks whose version is no longer the one given, or which are gone."""

RELEASE: Final = """
WITH RECURSIVE room AS MATERIALIZED (
    SELECT greatest(0, %(window)s - count(*))::int AS n FROM (
        SELECT FROM tasks WHERE queue = %(queue)s AND status = 'queued' AND rung_at IS NOT NULL LIMIT %(window)s) AS rung
),
owners AS (
    (SELECT owner_id FROM tasks WHERE queue = %(queue)s AND status = 'queued' AND rung_at IS NULL
     ORDER BY owner_id LIMIT 1)
    UNION ALL
    SELECT (SELECT t.owner_id FROM tasks t
            WHERE t.queue = %(queue)s AND t.status = 'queued' AND t.rung_at IS NULL AND t.owner_id > owners.owner_id
            ORDER BY t.owner_id LIMIT 1)
    FROM owners WHERE owners.owner_id IS NOT NULL
),
share AS MATERIALIZED (
    SELECT least(n, n / greatest(1, (SELECT count(owner_id) FROM owners)) + 8) AS n FROM room
),
candidates AS MATERIALIZED (
    SELECT c.* FROM owners CROSS JOIN LATERAL (
        SELECT t.id, t.kind, t.owner_id, t.priority FROM tasks t
        WHERE t.queue = %(queue)s AND t.owner_id = owners.owner_id AND t.status = 'queued' AND t.rung_at IS NULL
        ORDER BY t.priority DESC, t.id LIMIT (SELECT n FROM share) FOR UPDATE SKIP LOCKED) AS c
),
picked AS (
    SELECT id, kind, row_number() OVER (PARTITION BY owner_id ORDER BY priority DESC, id) AS turn
    FROM candidates ORDER BY turn, owner_id <= %(after)s::uuid, owner_id LIMIT (SELECT n FROM room)
)
UPDATE tasks t SET rung_at = clock_timestamp() FROM picked WHERE t.id = picked.id
RETURNING t.id::text, t.kind, picked.turn, t.owner_id::text"""
"""Mark what may be published of one queue: callers in turn, within one by priority, then age.

Gives (id, kind, turn, owner), in no order. Within a turn the first is the caller that follows `after`, so that where there
is room for one task at a time, it is not always the same caller's. A caller with a long queue is given little more than
its share of the room at once, or each release would lock its whole queue. No more than `window` tasks of a queue are
published and not yet claimed. Publish only after this has committed.
"""

LIST_DUE_QUEUES: Final = """
SELECT q.name FROM unnest(%(queues)s::text[]) AS q (name) CROSS JOIN LATERAL (
    SELECT FROM tasks t WHERE t.queue = q.name AND t.status = 'queued' AND t.rung_at IS NULL LIMIT 1) AS due"""
"""List the queues in which something is due that is not rung yet.

The limit keeps Postgres from reading all that is due to join it, as it does for EXISTS: a backlog of 15,000 cost 7 ms.
"""

CLAIM: Final = """
WITH c AS (
    UPDATE tasks t SET status = 'running', claim = v.claim, named_claim = NULL, attempt = t.attempt + 1,
        version = t.version + 1, started_at = clock_timestamp(), lease_until = clock_timestamp() + %(lease)s * interval '1 second',
        progress_percent = NULL, progress_message = NULL
    FROM unnest(%(ids)s::uuid[], %(claims)s::bigint[]) AS v (id, claim), task_payloads p
    WHERE t.id = ANY (ARRAY[v.id]) AND p.task_id = ANY (ARRAY[v.id]) AND t.status = 'queued' AND t.cancel_requested_at IS NULL
        AND (t.expires_at IS NULL OR t.expires_at > now())
    RETURNING t.id, t.claim, t.attempt, t.max_attempts, t.kind, t.timeout_seconds, t.organization_id, t.owner_id,
        t.request_id, p.params::text, t.version
),
e AS (
    INSERT INTO task_events (task_id, seq, type, data)
    SELECT id, version, 'status', jsonb_build_object('status', 'running', 'attempt', attempt) FROM c
)
SELECT id, claim, attempt, max_attempts, kind, timeout_seconds, organization_id, owner_id, request_id, params FROM c"""
"""Take tasks from queued to running. Gives a row for each that was taken: nothing for a duplicate, cancelled or expired."""

# What follows asks for the claim and not for the state: a row has a claim if and only if it is running (a constraint of the
# table). Asked for the state too, Postgres reads the index of all running rows for each row that is looked for.

RENEW: Final = f"""
UPDATE tasks t SET lease_until = clock_timestamp() + %(lease)s * interval '1 second', named_claim = {NAME_THE_CLAIM}
FROM unnest(%(ids)s::uuid[], %(claims)s::bigint[]) AS v (id, claim)
WHERE t.id = ANY (ARRAY[v.id]) AND t.claim = v.claim
RETURNING t.id, t.cancel_requested_at IS NOT NULL"""
"""Renew leases. Gives (id, whether a cancel is requested) for each claim that still holds."""

HOLD_CLAIM: Final = "SELECT FROM tasks WHERE id = %(id)s AND claim = %(claim)s FOR UPDATE"
"""Lock a running row for a transaction of its attempt. Gives a row only while the claim holds."""

REPORT_PROGRESS: Final = f"""
WITH u AS (
    UPDATE tasks t SET progress_percent = %(percent)s, progress_message = %(message)s, version = t.version + 1,
        named_claim = {NAME_THE_CLAIM}
    WHERE t.id = %(id)s AND t.claim = %(claim)s
    RETURNING t.id, t.version, t.cancel_requested_at IS NOT NULL AS cancel
),
e AS (
    INSERT INTO task_events (task_id, seq, type, data)
    SELECT id, version, 'progress', jsonb_build_object('percent', %(percent)s::int, 'message', %(message)s::text) FROM u
)
SELECT cancel FROM u"""
"""Write an attempt's progress. Gives (whether a cancel is requested), or nothing when the claim is lost."""

CANCELLED_ERROR: Final = orjson.dumps(
    {
        "type": "/problems/cancelled",
        "title": "Cancelled",
        "detail": "A caller cancelled the task.",
        "retryable": False,
        "data": {},
    }
).decode()

_NEXT_STATUS: Final = """CASE WHEN v.status IN ('retrying', 'queued') AND t.cancel_requested_at IS NOT NULL
            THEN 'cancelled' ELSE v.status END"""

_FINISH_COLUMNS: Final = "id uuid, claim bigint, status text, result jsonb, error jsonb, delay float8, artifacts json"


def _finish(*, with_artifacts: bool, with_emails: bool) -> str:
    artifacts = """,
made AS MATERIALIZED (
    SELECT u.id AS task_id, u.organization_id, u.owner_id, u.purge_at, a.*
    FROM u CROSS JOIN LATERAL json_to_recordset(u.artifacts) AS a (
        file_id uuid, name text, media_type text, size bigint, sha256 text, storage_key text, position int2)
    WHERE u.status = 'succeeded'
),
f AS (
    INSERT INTO files (id, organization_id, owner_id, name, media_type, size, sha256, origin, task_id, storage_key, expires_at)
    SELECT file_id, organization_id, owner_id, name, media_type, size, decode(sha256, 'hex'), 'task', task_id, storage_key,
        purge_at FROM made
),
x AS (
    INSERT INTO task_files (task_id, file_id, role, position) SELECT task_id, file_id, 'artifact', position FROM made
)"""
    error = "u.error"
    if with_emails:
        # What is known of an email stands in its intents and receipts; what its handler told of its recipients is as good.
        error = f"""
            CASE WHEN u.queue = 'email' AND u.status IN ('failed', 'cancelled') AND u.error->'data'->'recipients' IS NULL
            THEN {end_with("u.error")} || jsonb_build_object('attempt', u.attempt) ELSE u.error END"""
    return f"""
WITH v AS MATERIALIZED (
    SELECT * FROM json_to_recordset(%(document)s::json) AS v ({_FINISH_COLUMNS})
),
u AS (
    UPDATE tasks t SET
        status = {_NEXT_STATUS},
        claim = NULL, lease_until = NULL, rung_at = NULL, named_claim = {NAME_THE_CLAIM}, version = t.version + 1,
        attempt = t.attempt - CASE WHEN {_NEXT_STATUS} = 'queued' THEN 1 ELSE 0 END,
        next_attempt_at = CASE WHEN {_NEXT_STATUS} = 'retrying' THEN clock_timestamp() + v.delay * interval '1 second' END,
        finished_at = CASE WHEN {_NEXT_STATUS} IN ({_DONE}) THEN clock_timestamp() END,
        purge_at = CASE WHEN {_NEXT_STATUS} IN ({_DONE}) THEN clock_timestamp() + t.keep_seconds * interval '1 second' END,
        started_at = CASE WHEN {_NEXT_STATUS} <> 'queued' THEN t.started_at END
    FROM v WHERE t.id = ANY (ARRAY[v.id]) AND t.claim = v.claim
    RETURNING t.id, t.version, t.status, t.attempt, t.organization_id, t.owner_id, t.purge_at, t.queue, v.result, v.artifacts,
        CASE WHEN t.status = 'cancelled' AND v.status <> 'cancelled'
            THEN '{CANCELLED_ERROR}'::jsonb || jsonb_build_object('attempt', t.attempt) ELSE v.error END AS error
),
p AS (
    UPDATE task_payloads p SET result = u.result, error = {error}
    FROM u WHERE p.task_id = ANY (ARRAY[u.id])
),
e AS (
    INSERT INTO task_events (task_id, seq, type, data)
    SELECT id, version, 'status', jsonb_build_object('status', status, 'attempt', attempt) FROM u
){artifacts if with_artifacts else ""}
SELECT id, status FROM u"""


FINISH: Final = _finish(with_artifacts=False, with_emails=False)
"""End attempts by their claims: none with artifacts, nor an email that did not succeed. Gives (id, status) for each that was
still theirs.

`status` is the state wanted; one that would wait again (`retrying`, or `queued` for work handed back) becomes `cancelled`
when a cancel was requested. A lost claim gives no row and changes nothing.
"""

FINISH_WITH_ARTIFACTS: Final = _finish(with_artifacts=True, with_emails=False)
"""The same, and the artifacts of those that succeeded become files."""

FINISH_ANY: Final = _finish(with_artifacts=True, with_emails=True)
"""The same for any ends: an email that fails or is cancelled tells of its recipients, and that nobody knows, where nobody does.

Only to have those tables at hand costs half of what all of `FINISH` does, so it is not for what succeeded.
"""
