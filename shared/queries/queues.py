"""Statements that describe queues and workers: how much waits, what runs, and how fast. Plain SQL for psycopg.

Rates come from `queue_activity`, to which each worker adds how many attempts it started and ended, about once a second. So
they are read from at most 720 rows of a queue, however many tasks there are, and neither a claim nor a finish writes more.
Canaries are left out everywhere: the platform submits them all the time.
"""

from __future__ import annotations

from typing import Final

from shared.queries.signs_of_life import WORKER_PREFIX

SPAN_SECONDS: Final = 5
"""The length of the spans by which the activity of a queue is counted."""
ALIVE_SECONDS: Final = 15
"""How old the sign of life of a running worker may be."""

ADD_ACTIVITY: Final = f"""
INSERT INTO queue_activity AS activity (queue, at, started, ended)
SELECT added.queue, to_timestamp(floor(extract(epoch FROM now()) / {SPAN_SECONDS}) * {SPAN_SECONDS}), added.started, added.ended
FROM unnest(%(queues)s::text[], %(started)s::int[], %(ended)s::int[]) AS added (queue, started, ended) ORDER BY added.queue
ON CONFLICT (queue, at) DO UPDATE SET started = activity.started + excluded.started, ended = activity.ended + excluded.ended"""
"""Add attempts that have started and ended to the counts of the current span: `started[n]` and `ended[n]` of `queues[n]`."""

READ_ACTIVITY: Final = """
SELECT queue,
    coalesce(sum(started) FILTER (WHERE at > now() - interval '1 minute'), 0)::int AS started_last_minute,
    coalesce(sum(ended) FILTER (WHERE at > now() - interval '1 minute'), 0)::int AS ended_last_minute,
    sum(started)::int AS started_last_hour,
    sum(ended)::int AS ended_last_hour
FROM queue_activity WHERE at > now() - interval '1 hour' GROUP BY queue"""
"""Return the activity of each queue that had any in the last hour."""

READ_RATES: Final = f"""
SELECT queue,
    (sum(started) / greatest({SPAN_SECONDS}, extract(epoch FROM now() - min(at))))::float8 AS started_each_second
FROM queue_activity WHERE at > now() - interval '1 minute' AND started > 0 GROUP BY queue"""
"""Return how many attempts of each queue started each second, since the first start of the last minute.

A queue that started nothing in the last minute has no row.
"""

LIST_WORKERS: Final = f"""
SELECT substr(sign.part, {len(WORKER_PREFIX) + 1}) AS name, sign.at, sign.since, sign.details->'queues' AS queues,
    (sign.details->>'slots')::int AS slots, sign.details->>'version' AS version,
    sign.at > now() - interval '{ALIVE_SECONDS} seconds' AS is_alive
FROM signs_of_life AS sign WHERE starts_with(sign.part, '{WORKER_PREFIX}') ORDER BY sign.part"""
"""List the worker processes that showed a sign of life in the last day. A worker of an older version has no details."""

COUNT_WAITING: Final = """
SELECT queue, sum(tasks)::bigint AS tasks, min(oldest) AS oldest FROM (
    SELECT task.queue, count(*) AS tasks, min(uuid_extract_timestamp(task.id)) AS oldest FROM tasks task
    WHERE task.status = 'queued' AND task.rung_at IS NULL AND task.blocked_at IS NULL AND task.kind <> 'platform.canary'
    GROUP BY task.queue
    UNION ALL
    SELECT task.queue, count(*), min(uuid_extract_timestamp(task.id)) FROM tasks task
    WHERE task.status = 'queued' AND task.blocked_at IS NOT NULL GROUP BY task.queue
    UNION ALL
    SELECT task.queue, count(*), min(uuid_extract_timestamp(task.id)) FROM tasks task
    WHERE task.status = 'queued' AND task.rung_at IS NOT NULL AND task.kind <> 'platform.canary' GROUP BY task.queue) AS queued
GROUP BY queue"""
"""Count the queued tasks of each queue, and find when the oldest was submitted, which its id contains (UUIDv7).

The first part reads the index of due tasks alone, the second that of blocked ones, and the third at most a window of
published ones.
"""

COUNT_SCHEDULED: Final = """
SELECT task.queue, count(*) FILTER (WHERE task.status = 'scheduled') AS scheduled,
    count(*) FILTER (WHERE task.status = 'retrying') AS retrying
FROM tasks task WHERE task.status IN ('scheduled', 'retrying') GROUP BY task.queue"""
"""Count the scheduled and the retrying tasks of each queue."""

COUNT_RUNNING: Final = """
SELECT task.queue, count(*) AS tasks FROM tasks task
WHERE task.status = 'running' AND task.kind <> 'platform.canary' GROUP BY task.queue"""
"""Count the running tasks of each queue."""

LIST_RUNNING: Final = """
SELECT task.id, task.kind, task.queue, task.started_at, (
    SELECT event.data->>'worker' FROM task_events event
    WHERE event.task_id = task.id AND event.data ? 'worker' ORDER BY event.seq DESC LIMIT 1) AS worker
FROM tasks task WHERE task.status = 'running' AND task.kind <> 'platform.canary' ORDER BY task.started_at LIMIT %(limit)s"""
"""List running tasks, and which worker claimed each."""

LIST_PUBLISHED_TURNS: Final = """
SELECT task.turn FROM tasks task
WHERE task.queue = %(queue)s AND task.status = 'queued' AND task.rung_at IS NOT NULL
ORDER BY task.turn NULLS FIRST, task.id LIMIT %(limit)s"""
"""List the turns of the published tasks of a queue, the next first."""
