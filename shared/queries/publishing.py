"""Statements that publish tasks in a fair order of callers, and undo the mark of publication. Plain SQL for psycopg.

Each published task has a `turn`, and workers claim the published tasks of a queue by turn (`hot_tasks.CLAIM`). Turns are
given by start-time fair queueing (Goyal, Vin, Cheng, IEEE/ACM Transactions on Networking, 1997): the next turn of a caller
is one more than the caller's last turn in the queue, but no less than the turn that the queue has reached. So a caller who
comes to a queue that is full of another's tasks has the next turn, and two callers who both have a backlog alternate.

`MARK_PUBLISHED` is exact with any number of relays. It counts what is published, decides, and marks, in one statement; and
it marks nothing if another statement has published tasks of the queue since its snapshot, which `queue_turns.publications`
shows. A limit on concurrently running tasks belongs in the same statement, because only a published task can run.
"""

from __future__ import annotations

from typing import Final

from shared.queries.hot_tasks import DUE_CHANNEL

LISTEN: Final = f"LISTEN {DUE_CHANNEL}"
"""Receive a notice whenever tasks are due."""

NOTIFY: Final = "SELECT pg_notify(%(channel)s, %(queues)s)"
"""Send a notice that tasks of these queues, separated by commas, are due; of any queue, if it is empty."""

_IS_PAUSED: Final = """(
        EXISTS (SELECT FROM pauses pause WHERE pause.target = 'queue' AND pause.name = {queue})
        OR EXISTS (SELECT FROM pauses pause WHERE pause.target = 'kind' AND pause.name = {kind}))
        AND {kind} <> 'platform.canary'"""
"""Whether tasks of a queue and a kind are paused. Canaries never are: they show that the workers of a paused queue still work."""

LIST_DUE_QUEUES: Final = f"""
SELECT queue.name FROM unnest(%(queues)s::text[]) AS queue (name) CROSS JOIN LATERAL (
    WITH RECURSIVE due AS (
        (SELECT task.kind FROM tasks task
         WHERE task.queue = queue.name AND task.status = 'queued' AND task.rung_at IS NULL ORDER BY task.kind LIMIT 1)
        UNION ALL
        SELECT (SELECT task.kind FROM tasks task
                WHERE task.queue = queue.name AND task.status = 'queued' AND task.rung_at IS NULL AND task.kind > due.kind
                ORDER BY task.kind LIMIT 1)
        FROM due WHERE due.kind IS NOT NULL
    )
    SELECT FROM due WHERE due.kind IS NOT NULL AND NOT ({_IS_PAUSED.format(queue="queue.name", kind="due.kind")}) LIMIT 1
) AS publishable"""
"""List the queues that have tasks which are due, not published and not paused.

It reads one index entry for each kind until it finds one that is not paused, however many tasks are due.
"""

STATE_OF_QUEUE: Final = f"""queue_before AS MATERIALIZED (
    SELECT publications, last_turn FROM queue_turns WHERE queue = %(queue)s
),
published AS MATERIALIZED (
    SELECT task.owner_id, count(*) AS tasks, min(task.turn) AS first_turn
    FROM tasks task WHERE task.queue = %(queue)s AND task.status = 'queued' AND task.rung_at IS NOT NULL
    GROUP BY task.owner_id
),
room AS MATERIALIZED (
    SELECT greatest(0, %(window)s - coalesce(sum(tasks), 0))::int AS tasks,
        coalesce(min(first_turn) - 1, (SELECT last_turn FROM queue_before), 0) AS reached_turn,
        (SELECT last_turn FROM queue_before) - %(window)s AS least_turn
    FROM published
),
due AS (
    (SELECT task.kind, task.owner_id FROM tasks task
     WHERE task.queue = %(queue)s AND task.status = 'queued' AND task.rung_at IS NULL
     ORDER BY task.kind, task.owner_id LIMIT 1)
    UNION ALL
    SELECT next.kind, next.owner_id FROM due CROSS JOIN LATERAL (
        SELECT task.kind, task.owner_id FROM tasks task
        WHERE task.queue = %(queue)s AND task.status = 'queued' AND task.rung_at IS NULL
            AND (task.kind, task.owner_id) > (due.kind, CASE WHEN {_IS_PAUSED.format(queue="%(queue)s", kind="due.kind")}
                THEN 'ffffffff-ffff-ffff-ffff-ffffffffffff' ELSE due.owner_id END)
        ORDER BY task.kind, task.owner_id LIMIT 1) AS next
),
publishable AS MATERIALIZED (
    SELECT due.kind, due.owner_id FROM due WHERE NOT ({_IS_PAUSED.format(queue="%(queue)s", kind="due.kind")})
)"""
"""What is published and due in one queue, as common table expressions of a recursive WITH.

- `published`: how many tasks of each caller are published
- `room`: how many more may be, the turn that the queue has reached, and the least turn that is given now
- `publishable`: the pairs of a kind and a caller that have due tasks which are not paused
"""

MARK_PUBLISHED: Final = f"""
WITH RECURSIVE {STATE_OF_QUEUE},
callers AS MATERIALIZED (
    SELECT each.owner_id, sum(each.published) = 0 AS has_none_published
    FROM (
        SELECT publishable.owner_id, true AS is_due, 0 AS published FROM publishable
        UNION ALL
        SELECT published.owner_id, false, published.tasks FROM published) AS each
    GROUP BY each.owner_id HAVING bool_or(each.is_due)
),
share AS MATERIALIZED (
    SELECT CASE WHEN room.tasks = 0 THEN 0
        ELSE least(room.tasks, room.tasks / (SELECT greatest(1, count(*)) FROM callers) + 8) END AS tasks
    FROM room
),
candidates AS MATERIALIZED (
    SELECT candidate.*, caller.has_none_published, caller.reached_turn, caller.least_turn
    FROM (
        SELECT callers.owner_id, callers.has_none_published, share.tasks AS share, room.reached_turn,
            greatest(room.least_turn, (
                SELECT caller_turn.last_turn + 1 FROM caller_turns caller_turn
                WHERE caller_turn.queue = %(queue)s AND caller_turn.owner_id = callers.owner_id)) AS least_turn
        FROM callers CROSS JOIN room CROSS JOIN share
        WHERE share.tasks > 0 OR callers.has_none_published) AS caller
    JOIN publishable ON publishable.owner_id = caller.owner_id
    CROSS JOIN LATERAL (
        SELECT task.id, task.kind, task.owner_id, task.priority, task.turn FROM tasks task
        WHERE task.queue = %(queue)s AND task.kind = publishable.kind AND task.owner_id = publishable.owner_id
            AND task.status = 'queued' AND task.rung_at IS NULL
        ORDER BY task.priority DESC, task.id LIMIT greatest(1, caller.share) FOR UPDATE SKIP LOCKED) AS candidate
),
turned AS (
    SELECT id, kind, owner_id,
        coalesce(turn, greatest(least(reached_turn, min(turn) OVER () - 1), least_turn) - 1
            + count(*) FILTER (WHERE turn IS NULL) OVER of_caller) AS turn,
        has_none_published AND row_number() OVER of_caller = 1 AS is_first_of_caller
    FROM candidates
    WINDOW of_caller AS (PARTITION BY owner_id ORDER BY priority DESC, id ROWS UNBOUNDED PRECEDING)
),
picked AS MATERIALIZED (
    SELECT id, kind, owner_id, turn
    FROM (SELECT *, row_number() OVER (ORDER BY is_first_of_caller DESC, turn, id) AS place FROM turned) AS ordered
    WHERE is_first_of_caller OR place <= (SELECT tasks FROM room)
),
first_to_publish AS (
    INSERT INTO queue_turns AS queue_turn (queue, publications, last_turn)
    SELECT %(queue)s, 1, max(turn) FROM picked HAVING count(*) > 0
    ON CONFLICT (queue) DO UPDATE SET publications = queue_turn.publications + 1,
        last_turn = greatest(queue_turn.last_turn, excluded.last_turn)
    WHERE queue_turn.publications = (SELECT publications FROM queue_before)
    RETURNING queue
),
kept_turns AS (
    INSERT INTO caller_turns AS caller_turn (queue, owner_id, last_turn)
    SELECT first_to_publish.queue, picked.owner_id, max(picked.turn) FROM picked CROSS JOIN first_to_publish
    GROUP BY first_to_publish.queue, picked.owner_id
    ON CONFLICT (queue, owner_id) DO UPDATE SET last_turn = greatest(caller_turn.last_turn, excluded.last_turn), at = now()
)
UPDATE tasks task SET rung_at = clock_timestamp(), turn = picked.turn
FROM picked CROSS JOIN first_to_publish WHERE task.id = ANY (ARRAY[picked.id])
RETURNING task.id::text, task.kind, picked.turn"""
"""Mark tasks of one queue as published, and give each its turn. Returns (id, kind, turn) of each, in no order.

- Up to `window` tasks of the queue may be published and not yet claimed. In addition, one task is published for each caller who
  has none published, so that the backlog of one caller does not block others.
- Among one caller's due tasks, those of higher priority are published first, then the older ones.
- A task that was unmarked keeps the turn that it has.
- Tasks that are paused are left out, by reading one index entry for each of their kinds. A pause counts as a publication
  (`shared/queries/pauses.py`), so that a statement which does not see the pause marks nothing.
- One statement considers little more than a caller's share of the free window. Otherwise it would lock the whole backlog.
- The turn that the queue has reached is one less than the least turn of a published task, or of an unmarked one that is
  published now, so that a new caller comes first. A task that no running worker can claim would keep it constant, so it is
  at most `window` behind the last turn.

Publish the messages after this has committed. If it returns no rows, another relay may have been first: execute it again.
"""

UNMARK: Final = """
UPDATE tasks SET rung_at = NULL WHERE id = ANY(%(ids)s::uuid[]) AND status = 'queued'"""
"""Undo the mark of tasks whose message could not be published."""

UNMARK_NEXT: Final = """
WITH next AS (
    SELECT task.id FROM tasks task
    WHERE task.queue = %(queue)s AND task.status = 'queued' AND task.rung_at IS NOT NULL
    ORDER BY task.turn NULLS FIRST, task.id LIMIT %(tasks)s FOR UPDATE SKIP LOCKED
)
UPDATE tasks task SET rung_at = NULL FROM next WHERE task.id = ANY (ARRAY[next.id])"""
"""Undo the mark of the next `tasks` tasks of a queue, because a worker that received their messages has no free slot."""

UNMARK_UNCLAIMED: Final = """
WITH unclaimed AS (
    SELECT task.id FROM tasks task
    WHERE task.queue = %(queue)s AND task.status = 'queued' AND task.rung_at IS NOT NULL
        AND task.rung_at < now() - %(seconds)s * interval '1 second'
    ORDER BY task.turn NULLS FIRST, task.id LIMIT %(limit)s FOR UPDATE SKIP LOCKED
)
UPDATE tasks task SET rung_at = NULL FROM unclaimed WHERE task.id = ANY (ARRAY[unclaimed.id]) RETURNING task.id"""
"""Undo the mark of tasks that were published more than `seconds` ago and not claimed since. Returns their ids."""
