"""Statements on canaries: the tasks that show whether a queue works. Plain SQL for psycopg."""

from __future__ import annotations

from typing import Final

CANARY_KIND: Final = "platform.canary"

LIST_CANARIES: Final = """
SELECT DISTINCT ON (s.name) s.params->>'queue' AS queue,
    extract(epoch FROM now() - coalesce(t.finished_at, x.slot))::float8 AS age_seconds,
    extract(epoch FROM t.finished_at - t.created_at)::float8 AS round_trip_seconds
FROM schedules s
CROSS JOIN LATERAL (
    SELECT slot, task_id FROM schedule_slots WHERE schedule_id = s.id ORDER BY slot DESC LIMIT 10) AS x
LEFT JOIN tasks t ON t.id = x.task_id AND t.status = 'succeeded'
WHERE s.kind = %(kind)s AND s.enabled
ORDER BY s.name, t.finished_at DESC NULLS LAST, x.slot"""
"""List, for each queue that has canaries, how long ago the last canary succeeded and how long that took.

If none of the last ten succeeded, the age is that of the oldest of them, and `round_trip_seconds` is NULL.
"""

LIST_LATE_CANARIES: Final = """
SELECT DISTINCT ON (s.name) t.queue, t.status = 'queued' AS unclaimed, t.rung_at IS NOT NULL AS published
FROM schedules s
CROSS JOIN LATERAL (
    SELECT task_id FROM schedule_slots WHERE schedule_id = s.id ORDER BY slot DESC LIMIT 10) AS x
JOIN tasks t ON t.id = x.task_id
WHERE s.kind = %(kind)s AND s.enabled AND t.queue = ANY(%(queues)s::text[])
    AND t.created_at < now() - %(seconds)s * interval '1 second'
    AND (SELECT count(*) FROM signs_of_life
        WHERE part IN ('relay', 'sweeper') AND at > now() - %(alive_seconds)s * interval '1 second') = 2
ORDER BY s.name, t.created_at DESC"""
"""List, for each of the queues, the newest canary older than `seconds`: whether it is unclaimed, and whether it is published.

Returns no row unless the relay and the sweeper showed a sign of life within `alive_seconds`: without a relay no task is
published, so that a worker is not at fault.
"""
