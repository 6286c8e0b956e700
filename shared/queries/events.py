"""Statements on the history of tasks."""

from __future__ import annotations

from typing import Final

LIST_EVENTS_AFTER: Final = """
SELECT wanted.position, event.seq, event.type, event.at, event.data::text
FROM unnest(%(ids)s::uuid[], %(after)s::int[]) WITH ORDINALITY AS wanted (task_id, seq, position)
CROSS JOIN LATERAL (
    SELECT seq, type, at, data FROM task_events
    WHERE task_id = ANY (ARRAY[wanted.task_id]) AND seq > wanted.seq ORDER BY seq LIMIT %(limit)s) AS event
ORDER BY wanted.position, event.seq"""
"""List, for each of several tasks, the events that follow a sequence number, oldest first, up to a limit for each.

Returns (position of the task in the list, from 1; seq; type; at; data as JSON text).
"""

LIST_EVENTS_BETWEEN: Final = """
WITH asked AS MATERIALIZED (
    SELECT coalesce(%(since)s::text::pg_snapshot, pg_current_snapshot()) AS since,
        coalesce(%(until)s::text::pg_snapshot, pg_current_snapshot()) AS until
),
step AS MATERIALIZED (
    SELECT asked.since, pg_snapshot_xmax(asked.since) <= pg_snapshot_xmax(pg_current_snapshot()) AS is_past,
        CASE WHEN next.boundary <= pg_snapshot_xmin(asked.until)
            THEN (next.boundary || ':' || next.boundary || ':')::pg_snapshot ELSE asked.until END AS until,
        coalesce(next.boundary <= pg_snapshot_xmin(asked.until), false) AS is_early
    FROM asked LEFT JOIN LATERAL (
        SELECT event.transaction_id AS boundary FROM task_events event
        WHERE event.transaction_id > pg_snapshot_xmax(asked.since)
            AND event.transaction_id < pg_snapshot_xmax(asked.until)
        ORDER BY event.transaction_id OFFSET %(limit)s LIMIT 1) AS next ON true
),
changed AS (
    SELECT event.task_id FROM step JOIN task_events event
        ON event.transaction_id >= pg_snapshot_xmax(step.since) AND event.transaction_id < pg_snapshot_xmax(step.until)
    UNION
    SELECT event.task_id FROM step CROSS JOIN LATERAL pg_snapshot_xip(step.since) AS running (transaction_id)
    JOIN task_events event ON event.transaction_id = running.transaction_id
),
found AS (
    SELECT task.id, task.kind, task.queue, task.tags, task.batch_id, task.owner_id, task.organization_id, task.created_at,
        task.workflow_id, task.parent_id, task.schedule_id, task.rerun_of, task.metadata,
        event.seq, event.type, event.at, event.data
    FROM changed JOIN tasks task ON task.id = ANY (ARRAY[changed.task_id])
        AND (task.owner_id = ANY (%(owners)s::uuid[]) OR task.batch_id = ANY (%(batches)s::uuid[]))
    CROSS JOIN step
    CROSS JOIN LATERAL (
        SELECT max(event.seq) FILTER (WHERE pg_visible_in_snapshot(event.transaction_id, step.since)
                OR event.transaction_id IS NULL) AS before,
            max(event.seq) FILTER (WHERE pg_visible_in_snapshot(event.transaction_id, step.until)) AS last
        FROM task_events event WHERE event.task_id = ANY (ARRAY[task.id])) AS seen
    JOIN task_events event
        ON event.task_id = ANY (ARRAY[task.id]) AND event.seq > coalesce(seen.before, 0) AND event.seq <= seen.last
)
SELECT step.since::text, step.until::text, step.is_past, step.is_early, found.id, found.seq, found.type, found.at, found.data::text,
    found.kind, found.queue, found.tags, found.batch_id, found.owner_id, found.organization_id, found.created_at,
    found.workflow_id, found.parent_id, found.schedule_id, found.rerun_of, found.metadata::text,
    CASE WHEN found.type = 'status' AND found.data->>'status' IN ('retrying', 'failed', 'cancelled', 'expired') THEN
        (SELECT payload.error->>'type' FROM task_payloads payload WHERE payload.task_id = ANY (ARRAY[found.id])) END AS error_type
FROM step LEFT JOIN found ON true ORDER BY found.id, found.seq"""
"""List the events of some callers and batches that a snapshot does not contain yet and a later one does.

`since` and `until` are snapshots of Postgres, as `pg_current_snapshot()` returns them; NULL is now. A snapshot names the
transactions that had not committed, so an event that commits late is in the next step, whatever its transaction's number.
If more than about `limit` events (of all callers) lie between the two, the step ends earlier: at the snapshot that contains
every transaction below a number, which is only chosen among numbers below which all transactions have ended.

An event counts as contained in a snapshot if it is, or if a later one of its task is. Without that, a step that ends early
could split the events of a task in the wrong order: the transaction that wrote the later event may have the lower number.

Returns one row for each event, by task and `seq`, and a row without an event if there is none: (since, until as the step
ended; whether `since` is a snapshot of the past of this database; whether the step ended early; task's id, seq, type, at, data
as JSON text, and the task's kind, queue, tags, batch_id, owner_id, organization_id, created_at, workflow_id, parent_id,
schedule_id, rerun_of, metadata as JSON text; with an event that ended an attempt without success, the type of the task's error).
"""

COUNT_LOG: Final = """
SELECT count(*) FILTER (WHERE NOT data ? 'is_full') AS lines, coalesce(sum(octet_length(data::text)), 0)::bigint AS bytes,
    count(*) FILTER (WHERE data ? 'is_full') > 0 AS is_full
FROM task_events WHERE task_id = %(id)s AND type = 'log'"""
"""Count the log lines of a task. Returns (lines, bytes, whether a line says that the log is full)."""

LIST_LOG: Final = """
SELECT seq, at, data->>'level' AS level, data->>'text' AS text, data->'fields' AS fields
FROM task_events WHERE task_id = %(id)s AND type = 'log' AND seq > %(after)s ORDER BY seq LIMIT %(limit)s"""
"""List the log lines of a task that follow an event, oldest first: (seq, at, level, text, fields)."""
