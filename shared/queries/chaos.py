"""Statements by which a chaos run observes its stack, as plain SQL for psycopg. All columns are named."""

from __future__ import annotations

from typing import Final

COUNT_LIVE: Final = """
SELECT count(*) FILTER (WHERE task.status IN ('queued', 'running')) AS under_way,
    count(*) FILTER (WHERE task.status IN ('scheduled', 'retrying')
        AND coalesce(task.next_attempt_at, task.run_at) > now() + interval '2 s') AS later,
    count(*) AS not_done
FROM tasks task WHERE task.finished_at IS NULL AND task.schedule_id IS NULL"""
"""Count the tasks that are not done: `under_way` (queued or running), `later` (due in more than two seconds), and all.

Tasks of schedules do not count.
"""

MAKE_RETRIES_DUE: Final = """
UPDATE tasks SET next_attempt_at = now() WHERE status = 'retrying' AND next_attempt_at > now() + interval '1 s'"""
"""Set the next attempt of each retrying task to now."""

LIST_OUTCOMES: Final = """
SELECT task.id::text, task.status, payload.error->>'type' AS error_type
FROM tasks task JOIN task_payloads payload ON payload.task_id = task.id
WHERE task.id = ANY(%(ids)s::uuid[])"""
"""List `id`, `status` and `error_type` of tasks."""

LIST_SWEPT_ATTEMPTS: Final = """
SELECT task.queue,
    (SELECT extract(epoch FROM max(claim.at))::float8 FROM task_events claim
     WHERE claim.task_id = sweep.task_id AND claim.seq < sweep.seq AND claim.data->>'status' = 'running') AS claimed_at,
    extract(epoch FROM sweep.at)::float8 AS swept_at
FROM task_events sweep JOIN tasks task ON task.id = sweep.task_id
WHERE sweep.data->>'reason' = 'worker-lost' ORDER BY sweep.at"""
"""List `queue`, `claimed_at` and `swept_at`, as Unix times, of each attempt whose lease was lost."""

LIST_STARTED_WHILE_PAUSED: Final = """
SELECT task.id::text, event.at
FROM task_events event JOIN tasks task ON task.id = event.task_id
WHERE event.data->>'status' = 'running' AND task.queue = %(queue)s AND task.kind <> 'platform.canary'
    AND event.at > to_timestamp(%(begin)s) AND event.at < to_timestamp(%(end)s)"""
"""List `id` and `at` of the attempts of a queue that started between two Unix times."""

LIST_BEYOND_LIMITS: Final = """
WITH attempts AS (
    SELECT task.organization_id, task.id AS task_id, task.key_limits->'concurrency'->>'key' AS key,
        (task.key_limits->'concurrency'->>'limit')::int AS most, event.at AS began, (
            SELECT min(later.at) FROM task_events later
            WHERE later.task_id = event.task_id AND later.seq > event.seq AND later.data ? 'status') AS ended
    FROM tasks task JOIN task_events event ON event.task_id = task.id
    WHERE task.key_limits ? 'concurrency' AND event.data->>'status' = 'running'
)
SELECT attempt.task_id::text, attempt.key, attempt.most, running.tasks
FROM attempts attempt CROSS JOIN LATERAL (
    SELECT count(*) AS tasks FROM attempts other
    WHERE other.organization_id = attempt.organization_id AND other.key = attempt.key
        AND other.began <= attempt.began AND coalesce(other.ended, 'infinity') > attempt.began) running
WHERE running.tasks > attempt.most"""
"""List `task_id`, `key`, `most` and `tasks` of each attempt that started when more tasks of its key ran than its limit allows."""

LIST_HISTORIES: Final = """
SELECT event.task_id::text, array_agg(event.seq ORDER BY event.seq) AS seqs
FROM task_events event WHERE event.task_id = ANY(%(ids)s::uuid[]) GROUP BY event.task_id"""
"""List the sequence numbers of the events of tasks."""

IS_SCHEDULE_DONE: Final = """
SELECT schedule.next_at IS NULL AND NOT EXISTS (
    SELECT FROM tasks task WHERE task.schedule_id = schedule.id AND task.finished_at IS NULL) AS is_done
FROM schedules schedule WHERE schedule.id = %(schedule_id)s::uuid"""
"""Return whether a schedule has no further slot, and every task of it is done."""

LIST_SLOTS: Final = """
SELECT slot.slot AS at, count(task.id) AS tasks
FROM schedule_slots slot LEFT JOIN tasks task ON task.id = slot.task_id AND task.schedule_id = slot.schedule_id
WHERE slot.schedule_id = %(schedule_id)s::uuid GROUP BY slot.slot ORDER BY slot.slot"""
"""List the slots of a schedule, and how many tasks each has."""

COUNT_TASKS_OF_SCHEDULE: Final = "SELECT count(*) AS tasks FROM tasks WHERE schedule_id = %(schedule_id)s::uuid"
"""Count the tasks of a schedule."""

LIST_WORKFLOW_ENDS: Final = """
SELECT workflow.id::text, workflow.status, (
    SELECT jsonb_object_agg(step.name, (
        SELECT jsonb_agg(event.data->>'status' ORDER BY task.id)
        FROM tasks task JOIN task_events event ON event.task_id = task.id
        WHERE task.workflow_id = workflow.id AND task.workflow_step = step.name
            AND event.data->>'status' IN ('succeeded', 'failed', 'cancelled', 'expired')))
    FROM workflow_steps step WHERE step.workflow_id = workflow.id) AS ends
FROM workflows workflow WHERE workflow.id = ANY(%(ids)s::uuid[])"""
"""List `id`, `status` and `ends` of workflows: for each step, the statuses in which its tasks ended, one for each end."""

LIST_FOLLOWING: Final = """
SELECT following.tags[1] AS tag, following.status, EXISTS (
    SELECT FROM tasks task WHERE task.batch_id = follow_up.batch_id AND task.finished_at > following.finished_at) AS is_early
FROM tasks following LEFT JOIN batch_follow_ups follow_up
    ON follow_up.task_id = following.id AND follow_up.batch_id = ANY(%(batch_ids)s::uuid[])
WHERE following.tags && %(tags)s"""
"""List the tasks with one of the tags that follow batches: `tag`, `status`, and whether one is `is_early`, that is, finished
before the last task of its batch."""

LIST_UNDELIVERED: Final = """
SELECT delivery.id::text, delivery.event_type, delivery.state FROM webhook_deliveries delivery
WHERE delivery.state <> 'delivered'"""
"""List `id`, `event_type` and `state` of the webhooks that were not delivered."""
