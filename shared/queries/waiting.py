"""Statements that find why a task waits, and how much is ahead of it. Plain SQL for psycopg.

How much is ahead is counted in the order in which tasks are claimed: by turn (`shared/queries/publishing.py`). A due task
has no turn yet, so its turn is computed as the relay will: one more than the last turn of its caller, for each of the
caller's tasks that are before it. Counting ends at `limit`, however many tasks are queued.
"""

from __future__ import annotations

from typing import Final

from shared.queries.publishing import IS_DUE, STATE_OF_QUEUE
from shared.queries.running_limits import RUNNING_LIMITS, limits_task

READ_WAITING: Final = f"""
WITH subjects AS (
    SELECT subject.scope, subject.id FROM tasks task
    CROSS JOIN LATERAL (VALUES ('caller', task.owner_id), ('organization', task.organization_id)) AS subject (scope, id)
    WHERE task.id = %(id)s AND {IS_DUE}
),
{RUNNING_LIMITS}
SELECT task.status, task.kind, task.queue, task.owner_id, task.priority, task.turn, task.rung_at IS NOT NULL AS is_published,
    task.run_at, task.next_attempt_at, now() AS now,
    (SELECT event.at FROM task_events event WHERE event.task_id = task.id AND event.type = 'status'
     ORDER BY event.seq DESC LIMIT 1) AS changed_at,
    CASE WHEN task.kind <> 'platform.canary' THEN (
        SELECT min(pause.since) FROM pauses pause
        WHERE (pause.target, pause.name) IN (('queue', task.queue), ('kind', task.kind))) END AS paused_since,
    task.blocked_at, EXISTS (
        SELECT FROM running_limits AS running_limit
        WHERE {
    limits_task(
        "running_limit",
        owner="task.owner_id",
        organization="task.organization_id",
        queue="task.queue",
        kind="task.kind",
    )
} AND running_limit.free <= 0) AS is_limited
FROM tasks task WHERE task.id = %(id)s AND (%(organization)s::uuid IS NULL OR task.organization_id = %(organization)s)"""
"""Return why a task may wait: its status and times, since when it has that status, since when it is paused or blocked by the
limit of a key, and whether as many tasks run as its caller or organization may run at once.
"""

COUNT_AHEAD_OF_PUBLISHED: Final = """
SELECT count(*) AS tasks FROM (
    SELECT FROM tasks task
    WHERE task.queue = %(queue)s AND task.status = 'queued' AND task.rung_at IS NOT NULL
        AND (task.turn, task.id) < (%(turn)s::float8, %(id)s::uuid)
    LIMIT %(limit)s) AS ahead"""
"""Count the published tasks that are claimed before a published task, up to `limit`."""

COUNT_AHEAD_OF_DUE: Final = f"""
WITH RECURSIVE {STATE_OF_QUEUE},
pairs AS MATERIALIZED (SELECT kind, owner_id FROM publishable LIMIT %(pairs)s + 1),
next_turns AS MATERIALIZED (
    SELECT caller.owner_id, greatest(room.reached_turn, room.least_turn, (
        SELECT caller_turn.last_turn + 1 FROM caller_turns caller_turn
        WHERE caller_turn.queue = %(queue)s AND caller_turn.owner_id = caller.owner_id)) AS turn
    FROM (SELECT DISTINCT pairs.owner_id FROM pairs) AS caller CROSS JOIN room
),
own AS MATERIALIZED (
    SELECT count(*) AS tasks FROM (
        SELECT FROM pairs CROSS JOIN LATERAL (
            (SELECT FROM tasks task
             WHERE task.queue = %(queue)s AND task.kind = pairs.kind AND task.owner_id = pairs.owner_id
                AND {IS_DUE} AND task.priority > %(priority)s LIMIT %(limit)s)
            UNION ALL
            (SELECT FROM tasks task
             WHERE task.queue = %(queue)s AND task.kind = pairs.kind AND task.owner_id = pairs.owner_id
                AND {IS_DUE} AND task.priority = %(priority)s AND task.id < %(id)s::uuid
             LIMIT %(limit)s)) AS task
        WHERE pairs.owner_id = %(owner)s LIMIT %(limit)s) AS ahead
),
expected AS MATERIALIZED (
    SELECT coalesce(%(turn)s::float8, (SELECT turn FROM next_turns WHERE owner_id = %(owner)s) + own.tasks) AS turn FROM own
),
others AS (
    SELECT FROM tasks task CROSS JOIN expected
    WHERE task.queue = %(queue)s AND task.status = 'queued' AND task.rung_at IS NOT NULL AND task.turn < expected.turn
    UNION ALL
    SELECT FROM next_turns AS caller CROSS JOIN expected CROSS JOIN LATERAL (
        SELECT FROM pairs CROSS JOIN LATERAL (
            SELECT FROM tasks task
            WHERE task.queue = %(queue)s AND task.kind = pairs.kind AND task.owner_id = caller.owner_id
                AND {IS_DUE}
            LIMIT greatest(0, least(%(limit)s, ceil(expected.turn - caller.turn)))) AS task
        WHERE pairs.owner_id = caller.owner_id
        LIMIT greatest(0, least(%(limit)s, ceil(expected.turn - caller.turn)))) AS task
    WHERE caller.owner_id <> %(owner)s
)
SELECT (SELECT tasks FROM own) + (SELECT count(*) FROM (SELECT FROM others LIMIT %(limit)s) AS counted) AS tasks,
    (SELECT count(*) FROM pairs) > %(pairs)s AS is_unknown"""
"""Estimate how many tasks are claimed before a task that is due and not published.

It is unknown if more than `pairs` pairs of a kind and a caller have due tasks. At `limit` or more, there are more.
"""
