"""Statements that publish tasks in a fair order of callers, and undo the mark of publication. Plain SQL for psycopg.

Each published task has a `turn`, and workers claim the published tasks of a queue by turn (`hot_tasks.CLAIM`). Turns are
given by start-time fair queueing (Goyal, Vin, Cheng, IEEE/ACM Transactions on Networking, 1997): the next turn of a caller
is one more than the caller's last turn in the queue, but no less than the turn that the queue has reached. So a caller who
comes to a queue that is full of another's tasks has the next turn, and two callers who both have a backlog alternate. That
one is divided by the weight of the caller's organization: of two backlogs of weights 1 and 3, the second gets three turns for
each one of the first.

`MARK_PUBLISHED` is exact with any number of relays. It counts what is published, decides, and marks, in one statement; and
it marks nothing if another statement has published tasks of the queue since its snapshot, which `queue_turns.publications`
shows. The limits on concurrently running tasks are checked in the same statement, because only a published task can run.
"""

from __future__ import annotations

from typing import Final

from shared.queries.hot_tasks import DUE_CHANNEL
from shared.queries.key_limits import CHECK_KEY_LIMITS, HAS_LIMITED_KEYS
from shared.queries.running_limits import IS_RUNNING_LIMIT, RUNNING_LIMITS, limits_task

LISTEN: Final = f"LISTEN {DUE_CHANNEL}"
"""Receive a notice whenever tasks are due."""

NOTIFY: Final = "SELECT pg_notify(%(channel)s, %(queues)s)"
"""Send a notice that tasks of these queues, separated by commas, are due; of any queue, if it is empty."""

IS_DUE: Final = "task.status = 'queued' AND task.rung_at IS NULL AND task.blocked_at IS NULL"
"""Whether a task may be published: the condition of the index `ix_tasks_publishable`."""

_IS_PAUSED: Final = """(
        EXISTS (SELECT FROM pauses pause WHERE pause.target = 'queue' AND pause.name = {queue})
        OR EXISTS (SELECT FROM pauses pause WHERE pause.target = 'kind' AND pause.name = {kind}))
        AND {kind} <> 'platform.canary'"""
"""Whether tasks of a queue and a kind are paused. Canaries never are: they show that the workers of a paused queue still work."""

LIST_DUE_QUEUES: Final = f"""
SELECT queue.name FROM unnest(%(queues)s::text[]) AS queue (name) CROSS JOIN LATERAL (
    WITH RECURSIVE due AS (
        (SELECT task.kind FROM tasks task
         WHERE task.queue = queue.name AND {IS_DUE} ORDER BY task.kind LIMIT 1)
        UNION ALL
        SELECT (SELECT task.kind FROM tasks task
                WHERE task.queue = queue.name AND {IS_DUE} AND task.kind > due.kind
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
     WHERE task.queue = %(queue)s AND {IS_DUE}
     ORDER BY task.kind, task.owner_id LIMIT 1)
    UNION ALL
    SELECT next.kind, next.owner_id FROM due CROSS JOIN LATERAL (
        SELECT task.kind, task.owner_id FROM tasks task
        WHERE task.queue = %(queue)s AND {IS_DUE}
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

_OWNERS: Final = """owners AS MATERIALIZED (
    SELECT each.owner_id, sum(each.published) = 0 AS has_none_published, organization.id AS organization_id,
        coalesce(organization.weight, 1)::float8 AS weight
    FROM (
        SELECT publishable.owner_id, true AS is_due, 0 AS published FROM publishable
        UNION ALL
        SELECT published.owner_id, false, published.tasks FROM published) AS each
    LEFT JOIN callers AS caller ON caller.id = ANY (ARRAY[each.owner_id])
    LEFT JOIN organizations AS organization ON organization.id = ANY (ARRAY[caller.organization_id])
    GROUP BY each.owner_id, organization.id HAVING bool_or(each.is_due)
)"""
"""The callers who have due tasks, with the weights of their organizations."""

_SHARE: Final = """owner.*, greatest(room.least_turn, caller_turn.last_turn + 1 / owner.weight) AS least_turn, room.reached_turn,
        CASE WHEN room.tasks = 0 THEN 0
            ELSE least(room.tasks, floor(room.tasks * owner.weight / sum(owner.weight) OVER ())::int + 8) END AS share"""
"""The columns of a caller's row in `shares`: the least turn of its next task, and its part of the room."""

_LAST_TURN: Final = """CROSS JOIN room
    LEFT JOIN caller_turns AS caller_turn
        ON caller_turn.queue = %(queue)s AND caller_turn.owner_id = ANY (ARRAY[owner.owner_id])"""

_TURN: Final = """coalesce(turn, greatest(least(reached_turn, min(turn) OVER () - 1), least_turn)
            + (count(*) FILTER (WHERE turn IS NULL) OVER of_caller - 1) / weight) AS turn,
        has_none_published AND row_number() OVER of_caller = 1 AS is_first_of_caller"""
"""The turn of a candidate, and whether it is the first of a caller who has none published. It reads the window `of_caller`."""

_COUNT_PUBLICATION: Final = """first_to_publish AS (
    INSERT INTO queue_turns AS queue_turn (queue, publications, last_turn)
    SELECT %(queue)s, 1, max(turn) FROM picked HAVING count(*) > 0
    ON CONFLICT (queue) DO UPDATE SET publications = queue_turn.publications + 1,
        last_turn = greatest(queue_turn.last_turn, excluded.last_turn)
    WHERE queue_turn.publications = (SELECT publications FROM queue_before)
    RETURNING queue
)"""

_KEEP_TURNS: Final = """kept_turns AS (
    INSERT INTO caller_turns AS caller_turn (queue, owner_id, last_turn)
    SELECT first_to_publish.queue, picked.owner_id, max(picked.turn) FROM picked CROSS JOIN first_to_publish
    GROUP BY first_to_publish.queue, picked.owner_id
    ON CONFLICT (queue, owner_id) DO UPDATE SET last_turn = greatest(caller_turn.last_turn, excluded.last_turn), at = now()
)"""

ARE_LIMITS_USED: Final = f"""SELECT EXISTS (SELECT FROM limits WHERE {IS_RUNNING_LIMIT}) OR {HAS_LIMITED_KEYS}"""
"""Return whether there is a limit of what runs at once, or a task of any queue with limits of keys that is not blocked."""

MARK_PUBLISHED: Final = f"""
WITH RECURSIVE {STATE_OF_QUEUE},
{_OWNERS},
shares AS MATERIALIZED (
    SELECT {_SHARE}
    FROM (SELECT owners.owner_id, owners.has_none_published, owners.weight FROM owners) AS owner
    {_LAST_TURN}
    WHERE NOT ({ARE_LIMITS_USED})
),
candidates AS MATERIALIZED (
    SELECT candidate.*, share.has_none_published, share.weight, share.reached_turn, share.least_turn
    FROM (SELECT shares.* FROM shares WHERE shares.share > 0 OR shares.has_none_published) AS share
    JOIN publishable ON publishable.owner_id = share.owner_id
    CROSS JOIN LATERAL (
        SELECT task.id, task.kind, task.owner_id, task.priority, task.turn FROM tasks task
        WHERE task.queue = %(queue)s AND task.kind = publishable.kind AND task.owner_id = publishable.owner_id AND {IS_DUE}
        ORDER BY task.priority DESC, task.id LIMIT greatest(1, share.share) FOR UPDATE SKIP LOCKED) AS candidate
),
turned AS (
    SELECT id, kind, owner_id, {_TURN}
    FROM candidates
    WINDOW of_caller AS (PARTITION BY owner_id ORDER BY priority DESC, id ROWS UNBOUNDED PRECEDING)
),
picked AS MATERIALIZED (
    SELECT id, kind, owner_id, turn
    FROM (SELECT *, row_number() OVER (ORDER BY is_first_of_caller DESC, turn, id) AS place FROM turned) AS ordered
    WHERE is_first_of_caller OR place <= (SELECT tasks FROM room)
),
{_COUNT_PUBLICATION},
{_KEEP_TURNS}
UPDATE tasks task SET rung_at = clock_timestamp(), turn = picked.turn
FROM picked CROSS JOIN first_to_publish WHERE task.id = ANY (ARRAY[picked.id])
RETURNING task.id::text, task.kind, picked.turn, true AS is_published"""
"""Mark tasks of one queue as published, and give each its turn. Returns (id, kind, turn, is_published), in no order.

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

Publish the messages after this has committed. If it returns no rows, another relay may have been first: execute it again. Or
`ARE_LIMITS_USED`: then it marks nothing, and `MARK_WITHIN_LIMITS` has to be executed.
"""

_CHOOSE_CANDIDATES: Final = f"""{_OWNERS},
subjects AS (
    SELECT 'caller' AS scope, owner_id AS id FROM owners
    UNION
    SELECT 'organization', organization_id FROM owners WHERE organization_id IS NOT NULL
),
{RUNNING_LIMITS},
pairs AS MATERIALIZED (
    SELECT publishable.kind, owners.*, (
        SELECT min(running_limit.free) FROM running_limits AS running_limit
        WHERE {
    limits_task(
        "running_limit",
        owner="owners.owner_id",
        organization="owners.organization_id",
        queue="%(queue)s",
        kind="publishable.kind",
    )
}) AS free
    FROM publishable JOIN owners ON owners.owner_id = publishable.owner_id
),
shares AS MATERIALIZED (
    SELECT {_SHARE}
    FROM (
        SELECT pairs.owner_id, pairs.has_none_published, pairs.weight FROM pairs
        WHERE pairs.free IS NULL OR pairs.free > 0
        GROUP BY pairs.owner_id, pairs.has_none_published, pairs.weight) AS owner
    {_LAST_TURN}
),
candidates AS MATERIALIZED (
    SELECT candidate.*, share.has_none_published, share.weight, share.reached_turn, share.least_turn,
        pairs.free IS NOT NULL AS has_running_limit
    FROM (SELECT shares.* FROM shares WHERE shares.share > 0 OR shares.has_none_published) AS share
    JOIN pairs ON pairs.owner_id = share.owner_id AND (pairs.free IS NULL OR pairs.free > 0)
    CROSS JOIN LATERAL (
        SELECT task.id, task.kind, task.owner_id, task.organization_id, task.priority, task.turn, task.key_limits
        FROM tasks task
        WHERE task.queue = %(queue)s AND task.kind = pairs.kind AND task.owner_id = pairs.owner_id AND {IS_DUE}
        ORDER BY task.priority DESC, task.id LIMIT least(greatest(1, share.share), pairs.free)
        FOR UPDATE SKIP LOCKED) AS candidate
)"""
"""The tasks that one statement considers, as common table expressions after those of `STATE_OF_QUEUE`.

- `pairs`: `publishable`, with how many more tasks of the pair may run by the limits of what runs at once; NULL for any number
- `shares`: the callers of whom a task may be published, with the part of the room of each by its weight
- `candidates`: the due tasks of these callers, no more than a share of each, locked
"""

MARK_WITHIN_LIMITS: Final = f"""
WITH RECURSIVE {STATE_OF_QUEUE},
{_CHOOSE_CANDIDATES},
{CHECK_KEY_LIMITS},
fitting AS (
    SELECT candidate.*, false AS is_counted FROM candidates AS candidate WHERE candidate.key_limits IS NULL
    UNION ALL
    SELECT candidate.*, true FROM candidates AS candidate
    WHERE candidate.key_limits IS NOT NULL AND candidate.id IN (SELECT id FROM checked WHERE fits)
),
turned AS MATERIALIZED (
    SELECT id, kind, owner_id, organization_id, has_running_limit, is_counted OR has_running_limit AS is_counted,
        {_TURN}
    FROM fitting
    WINDOW of_caller AS (PARTITION BY owner_id ORDER BY priority DESC, id ROWS UNBOUNDED PRECEDING)
),
allowed AS (
    SELECT id, kind, owner_id, organization_id, is_counted, turn, is_first_of_caller FROM turned
    WHERE NOT has_running_limit
    UNION ALL
    SELECT id, kind, owner_id, organization_id, is_counted, turn, is_first_of_caller
    FROM (
        SELECT turned.*,
            row_number() OVER (PARTITION BY owner_id ORDER BY turn, id) AS of_caller,
            row_number() OVER (PARTITION BY owner_id, kind ORDER BY turn, id) AS of_caller_and_kind,
            row_number() OVER (PARTITION BY organization_id ORDER BY turn, id) AS of_organization,
            row_number() OVER (PARTITION BY organization_id, kind ORDER BY turn, id) AS of_organization_and_kind
        FROM turned WHERE has_running_limit) AS place
    WHERE NOT EXISTS (
        SELECT FROM running_limits AS running_limit
        WHERE {
    limits_task(
        "running_limit",
        owner="place.owner_id",
        organization="place.organization_id",
        queue="%(queue)s",
        kind="place.kind",
    )
}
            AND running_limit.free < CASE
                WHEN running_limit.scope = 'caller' AND running_limit.name = 'running_by_kind' THEN place.of_caller_and_kind
                WHEN running_limit.scope = 'caller' THEN place.of_caller
                WHEN running_limit.name = 'running_by_kind' THEN place.of_organization_and_kind
                ELSE place.of_organization END)
),
picked AS MATERIALIZED (
    SELECT id, kind, owner_id, organization_id, is_counted, turn
    FROM (SELECT *, row_number() OVER (ORDER BY is_first_of_caller DESC, turn, id) AS place FROM allowed) AS ordered
    WHERE is_first_of_caller OR place <= (SELECT tasks FROM room)
),
{_COUNT_PUBLICATION},
first_of_organization AS (
    INSERT INTO organization_turns AS organization_turn (organization_id, publications)
    SELECT DISTINCT picked.organization_id, 1 FROM picked CROSS JOIN first_to_publish WHERE picked.is_counted
    ORDER BY picked.organization_id
    ON CONFLICT (organization_id) DO UPDATE SET publications = organization_turn.publications + 1
    -- The inner SELECT reads the snapshot of the statement, and the outer value is the present one.
    WHERE organization_turn.publications = (
        SELECT before.publications FROM organization_turns AS before
        WHERE before.organization_id = excluded.organization_id)
    RETURNING organization_id
),
{_KEEP_TURNS},
changed AS (
    SELECT picked.id, picked.turn, false AS is_blocked FROM picked CROSS JOIN first_to_publish
    WHERE NOT picked.is_counted OR picked.organization_id IN (SELECT organization_id FROM first_of_organization)
    UNION ALL
    SELECT checked.id, NULL, true FROM checked WHERE NOT checked.fits
)
UPDATE tasks task SET rung_at = CASE WHEN NOT changed.is_blocked THEN clock_timestamp() END,
    turn = coalesce(changed.turn, task.turn), blocked_at = CASE WHEN changed.is_blocked THEN clock_timestamp() END
FROM changed WHERE task.id = ANY (ARRAY[changed.id])
RETURNING task.id::text, task.kind, task.turn, task.rung_at IS NOT NULL AS is_published"""
"""Mark tasks as `MARK_PUBLISHED` does, within all limits. Where there are none, that one takes less than half of the time.

- A task with limits of keys for which there is no room is blocked instead, and returned with `is_published` false
  (`shared/queries/key_limits.py`).
- A limit of what runs at once (`shared/queries/running_limits.py`) and the limit of a key count published and running tasks,
  of all queues. So tasks for which a limit counts are marked only if no other statement has published such tasks of their
  organization since the snapshot, which `organization_turns.publications` shows.
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
