"""Statements by which a chaos run observes its stack, as plain SQL for psycopg."""

from __future__ import annotations

from typing import Final

COUNT_LIVE: Final = """
SELECT count(*) FILTER (WHERE status IN ('queued', 'running')),
    count(*) FILTER (WHERE status IN ('scheduled', 'retrying') AND coalesce(next_attempt_at, run_at) > now() + interval '2 s')
FROM tasks WHERE finished_at IS NULL AND schedule_id IS NULL"""
"""Count (tasks that are queued or running, tasks that are due in more than two seconds), without tasks of schedules."""

COUNT_NOT_DONE: Final = "SELECT count(*) FROM tasks WHERE finished_at IS NULL AND schedule_id IS NULL"
"""Count the tasks that are not done, without tasks of schedules."""

MAKE_RETRIES_DUE: Final = """
UPDATE tasks SET next_attempt_at = now() WHERE status = 'retrying' AND next_attempt_at > now() + interval '1 s'"""
"""Set the next attempt of each retrying task to now."""

LIST_OUTCOMES: Final = """
SELECT t.id::text, t.status, p.error->>'type' FROM tasks t JOIN task_payloads p ON p.task_id = t.id
WHERE t.id = ANY(%(ids)s::uuid[])"""
"""List (id, status, error type) of tasks."""

LIST_SWEPT_ATTEMPTS: Final = """
SELECT t.queue,
    (SELECT extract(epoch FROM max(b.at))::float8 FROM task_events b
     WHERE b.task_id = e.task_id AND b.seq < e.seq AND b.data->>'status' = 'running'),
    extract(epoch FROM e.at)::float8
FROM task_events e JOIN tasks t ON t.id = e.task_id
WHERE e.data->>'reason' = 'worker-lost' ORDER BY e.at"""
"""List (queue, Unix time of the claim, Unix time of the sweep) of each attempt whose lease was lost."""
