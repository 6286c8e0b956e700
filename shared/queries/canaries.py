"""Statements on canaries: the tasks that show whether a queue works. Plain SQL for psycopg."""

from __future__ import annotations

from typing import Final

CANARY_KIND: Final = "platform.canary"

LIST_CANARIES: Final = """
SELECT DISTINCT ON (schedule.name) schedule.params->>'queue' AS queue,
    extract(epoch FROM now() - coalesce(canary.finished_at, latest.slot))::float8 AS age_seconds,
    extract(epoch FROM canary.finished_at - canary.created_at)::float8 AS round_trip_seconds
FROM schedules schedule
CROSS JOIN LATERAL (
    SELECT slot, task_id FROM schedule_slots WHERE schedule_id = schedule.id ORDER BY slot DESC LIMIT 10) AS latest
LEFT JOIN tasks canary ON canary.id = latest.task_id AND canary.status = 'succeeded'
WHERE schedule.kind = %(kind)s AND schedule.enabled
ORDER BY schedule.name, canary.finished_at DESC NULLS LAST, latest.slot"""
"""List, for each queue that has canaries, how long ago the last canary succeeded and how long that took.

If none of the last ten succeeded, the age is that of the oldest of them, and `round_trip_seconds` is NULL.
"""

LIST_LATE_CANARIES: Final = """
SELECT DISTINCT ON (schedule.name) canary.queue, canary.status = 'queued' AS is_unclaimed,
    canary.rung_at IS NOT NULL AS is_published
FROM schedules schedule
CROSS JOIN LATERAL (
    SELECT task_id FROM schedule_slots WHERE schedule_id = schedule.id ORDER BY slot DESC LIMIT 10) AS latest
JOIN tasks canary ON canary.id = latest.task_id
WHERE schedule.kind = %(kind)s AND schedule.enabled AND canary.queue = ANY(%(queues)s::text[])
    AND canary.created_at < now() - %(seconds)s * interval '1 second'
    AND (SELECT count(*) FROM signs_of_life sign
        WHERE sign.part IN ('relay', 'sweeper') AND sign.at > now() - %(alive_seconds)s * interval '1 second') = 2
ORDER BY schedule.name, canary.created_at DESC"""
"""List, for each of the queues, the newest canary older than `seconds`: whether it is unclaimed, and whether it is published.

Returns no row unless the relay and the sweeper showed a sign of life within `alive_seconds`: without a relay no task is
published, so that an unclaimed canary says nothing about workers.
"""
