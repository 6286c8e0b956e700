"""Statements that keep the limits which submissions name for a key: `concurrency` and `rate`. Plain SQL for psycopg.

A task with such a limit counts for its key while it is published or running. Nothing else is stored about what runs, so no
end of a worker, relay or broker can leave a slot of a key taken. The starts that a rate counts are rows of `rate_starts`,
which a trigger inserts in the transaction of the claim.

The statement that publishes tasks (`publishing.MARK_PUBLISHED`) blocks those for which their keys have no room: they stay
queued, with `blocked_at` set, and leave the index of due tasks, so that they are not read again each time. `UNBLOCK` undoes
this for as many as their keys have room for. Whether a task was blocked matters for speed alone: the limits are checked when
it is published.

Tasks of one key may name different limits. A task starts if neither its own limit nor that of any running task of the key
would be exceeded, and the older ones of a queue, kind and caller that wait come first.
"""

from __future__ import annotations

from typing import Final

CONCURRENCY_KEY: Final = "(task.key_limits -> 'concurrency' ->> 'key')"
RATE_KEY: Final = "(task.key_limits -> 'rate' ->> 'key')"
_IS_UNSTARTED: Final = "((task.rung_at IS NULL AND task.claim IS NULL)::int)"
"""0 for a published or running task, else 1: a column of the indexes on keys."""
_HAS_CONCURRENCY_KEY: Final = (
    "task.key_limits -> 'concurrency' IS NOT NULL AND task.status IN ('queued', 'running') AND task.blocked_at IS NULL"
)
_HAS_RATE_KEY: Final = "task.key_limits -> 'rate' IS NOT NULL AND task.status = 'queued' AND task.blocked_at IS NULL"
HAS_LIMITED_KEYS: Final = f"""(EXISTS (SELECT FROM tasks task WHERE {_HAS_CONCURRENCY_KEY})
    OR EXISTS (SELECT FROM tasks task WHERE {_HAS_RATE_KEY}))"""
"""Whether there is a task with limits of keys that is due, published or running. It reads one entry of two indexes at most."""
_LIMIT: Final = "(task.key_limits -> 'concurrency' ->> 'limit')::int"


def _count_active(organization: str, key: str, condition: str) -> str:
    """Return a SELECT of how many tasks of a key are published or running, and of the least of their limits."""
    return f"""SELECT count(*) AS tasks, min({_LIMIT}) AS least_limit FROM tasks task
        WHERE {condition} AND task.organization_id = {organization} AND {CONCURRENCY_KEY} = {key}
            AND {_HAS_CONCURRENCY_KEY} AND {_IS_UNSTARTED} = 0"""


def _count_starts(organization: str, key: str, seconds: str, condition: str) -> str:
    """Return a SELECT of how many attempts of a key started within so many seconds, or may start at any time."""
    return f"""SELECT (
            SELECT count(*) FROM rate_starts AS start
            WHERE {condition} AND start.organization_id = {organization} AND start.key = {key}
                AND start.at > clock_timestamp() - {seconds} * interval '1 second') + (
            SELECT count(*) FROM tasks task
            WHERE {condition} AND task.organization_id = {organization} AND {RATE_KEY} = {key}
                AND {_HAS_RATE_KEY} AND {_IS_UNSTARTED} = 0) AS tasks"""


_GROUP: Final = """task.organization_id, coalesce(task.key_limits -> 'concurrency' ->> 'key', '') AS concurrency_key,
        coalesce(task.key_limits -> 'rate' ->> 'key', '') AS rate_key, task.queue, task.kind, task.owner_id"""
_GROUP_VALUES: Final = """task.organization_id, coalesce(task.key_limits -> 'concurrency' ->> 'key', ''),
            coalesce(task.key_limits -> 'rate' ->> 'key', ''), task.queue, task.kind, task.owner_id"""
_IS_BLOCKED: Final = "task.status = 'queued' AND task.blocked_at IS NOT NULL"


def _in_group(group: str) -> str:
    names = ("organization_id", "concurrency_key", "rate_key", "queue", "kind", "owner_id")
    return f"({_GROUP_VALUES}) = ({', '.join(f'{group}.{name}' for name in names)})"


CHECK_KEY_LIMITS: Final = f"""limited AS (
    SELECT task.id, task.organization_id, task.kind, task.owner_id, task.priority,
        {CONCURRENCY_KEY} AS concurrency_key, {_LIMIT} AS concurrency_limit,
        {RATE_KEY} AS rate_key, (task.key_limits -> 'rate' ->> 'limit')::int AS rate_limit,
        (task.key_limits -> 'rate' ->> 'period_seconds')::int AS rate_seconds
    FROM candidates AS task WHERE task.key_limits IS NOT NULL
),
placed AS (
    SELECT limited.*,
        row_number() OVER of_concurrency AS concurrency_place, min(concurrency_limit) OVER of_concurrency AS concurrency_least,
        row_number() OVER of_rate AS rate_place, min(rate_limit) OVER of_rate AS rate_least,
        row_number() OVER of_period AS period_place, row_number() OVER of_group AS group_place
    FROM limited
    WINDOW of_concurrency AS (
            PARTITION BY organization_id, concurrency_key ORDER BY priority DESC, id ROWS UNBOUNDED PRECEDING),
        of_rate AS (PARTITION BY organization_id, rate_key ORDER BY priority DESC, id ROWS UNBOUNDED PRECEDING),
        of_period AS (
            PARTITION BY organization_id, rate_key, rate_seconds ORDER BY priority DESC, id ROWS UNBOUNDED PRECEDING),
        of_group AS (
            PARTITION BY organization_id, concurrency_key, rate_key, kind, owner_id
            ORDER BY priority DESC, id ROWS UNBOUNDED PRECEDING)
),
counted AS (
    SELECT placed.*, max(active.tasks) OVER of_concurrency AS active, min(active.least_limit) OVER of_concurrency AS active_least,
        max(started.tasks) OVER of_period AS started,
        first_value(head.id) OVER of_group AS blocked_id, first_value(head.priority) OVER of_group AS blocked_priority
    FROM placed
    -- Each key is counted once, for its first task, and the first blocked task of each group is read once.
    CROSS JOIN LATERAL (
        {_count_active("placed.organization_id", "placed.concurrency_key", "placed.concurrency_place = 1")}) AS active
    CROSS JOIN LATERAL (
        {_count_starts("placed.organization_id", "placed.rate_key", "placed.rate_seconds", "placed.period_place = 1")}) AS started
    LEFT JOIN LATERAL (
        SELECT task.id, task.priority FROM tasks task
        WHERE placed.group_place = 1 AND {_IS_BLOCKED}
            AND ({_GROUP_VALUES}) = (placed.organization_id, coalesce(placed.concurrency_key, ''),
                coalesce(placed.rate_key, ''), %(queue)s, placed.kind, placed.owner_id)
        ORDER BY task.priority DESC, task.id LIMIT 1) AS head ON true
    WINDOW of_concurrency AS (PARTITION BY placed.organization_id, placed.concurrency_key),
        of_period AS (PARTITION BY placed.organization_id, placed.rate_key, placed.rate_seconds),
        of_group AS (
            PARTITION BY placed.organization_id, placed.concurrency_key, placed.rate_key, placed.kind, placed.owner_id
            ORDER BY placed.group_place)
),
checked AS MATERIALIZED (
    SELECT counted.id, (counted.concurrency_key IS NULL
            OR counted.active + counted.concurrency_place <= least(counted.concurrency_least, counted.active_least))
        AND (counted.rate_key IS NULL OR counted.started + counted.rate_place <= counted.rate_least)
        AND (counted.blocked_id IS NULL OR counted.blocked_priority < counted.priority
            OR (counted.blocked_priority = counted.priority AND counted.blocked_id > counted.id)) AS fits
    FROM counted
)"""
"""Which of the `candidates` with limits of keys may be published, as common table expressions: `checked` has (id, fits).

Of several tasks of a key, those of higher priority come first, then the older ones; one that does not fit holds back those
after it, and one that is blocked already holds back those of its group (see `UNBLOCK`). Otherwise a task with a low limit would
wait for as long as younger ones with higher limits come.
"""

UNBLOCK: Final = f"""
WITH RECURSIVE groups AS (
    (SELECT {_GROUP} FROM tasks task WHERE {_IS_BLOCKED} ORDER BY {_GROUP_VALUES} LIMIT 1)
    UNION ALL
    SELECT next.* FROM groups CROSS JOIN LATERAL (
        SELECT {_GROUP} FROM tasks task
        WHERE {_IS_BLOCKED} AND ({_GROUP_VALUES})
            > (groups.organization_id, groups.concurrency_key, groups.rate_key, groups.queue, groups.kind, groups.owner_id)
        ORDER BY {_GROUP_VALUES} LIMIT 1) AS next
),
room AS MATERIALIZED (
    SELECT groups.*, least(
            CASE WHEN groups.concurrency_key <> '' THEN least(head.concurrency_limit, active.least_limit) - active.tasks END,
            CASE WHEN groups.rate_key <> '' THEN head.rate_limit - started.tasks END) AS tasks
    FROM groups CROSS JOIN LATERAL (
        SELECT {_LIMIT} AS concurrency_limit, (task.key_limits -> 'rate' ->> 'limit')::int AS rate_limit,
            (task.key_limits -> 'rate' ->> 'period_seconds')::int AS rate_seconds
        FROM tasks task WHERE {_IS_BLOCKED} AND {_in_group("groups")}
        ORDER BY task.priority DESC, task.id LIMIT 1) AS head
    CROSS JOIN LATERAL (
        {_count_active("groups.organization_id", "groups.concurrency_key", "groups.concurrency_key <> ''")}) AS active
    CROSS JOIN LATERAL (
        {_count_starts("groups.organization_id", "groups.rate_key", "head.rate_seconds", "groups.rate_key <> ''")}) AS started
),
-- Tasks of the group that are due already need room, too.
free AS MATERIALIZED (
    SELECT room.*, room.tasks - (
            SELECT count(*) FROM (
                SELECT FROM tasks task
                WHERE room.concurrency_key <> '' AND task.organization_id = room.organization_id
                    AND {CONCURRENCY_KEY} = room.concurrency_key AND {_HAS_CONCURRENCY_KEY} AND {_IS_UNSTARTED} = 1
                    AND (task.queue, task.kind, task.owner_id) = (room.queue, room.kind, room.owner_id)
                LIMIT room.tasks) AS due) - (
            SELECT count(*) FROM (
                SELECT FROM tasks task
                WHERE room.concurrency_key = '' AND task.organization_id = room.organization_id
                    AND {RATE_KEY} = room.rate_key AND {_HAS_RATE_KEY} AND {_IS_UNSTARTED} = 1
                    AND (task.queue, task.kind, task.owner_id) = (room.queue, room.kind, room.owner_id)
                LIMIT room.tasks) AS due) AS unblocked
    FROM room WHERE room.tasks > 0
),
freed AS MATERIALIZED (
    SELECT task.*, (
        SELECT min(published.turn) FROM tasks published
        WHERE published.queue = task.queue AND published.status = 'queued' AND published.rung_at IS NOT NULL
            AND published.owner_id = task.owner_id
            AND (published.priority < task.priority OR (published.priority = task.priority AND published.id > task.id))) AS turn
    FROM free CROSS JOIN LATERAL (
        SELECT task.id, task.queue, task.owner_id, task.priority FROM tasks task
        WHERE {_IS_BLOCKED} AND {_in_group("free")}
        ORDER BY task.priority DESC, task.id LIMIT greatest(0, free.unblocked) FOR UPDATE SKIP LOCKED) AS task
),
used AS MATERIALIZED (
    SELECT freed.queue, freed.owner_id, count(freed.turn) / coalesce(max((
        SELECT organization.weight FROM callers AS caller
        JOIN organizations AS organization ON organization.id = ANY (ARRAY[caller.organization_id])
        WHERE caller.id = freed.owner_id)), 1)::float8 AS turns
    FROM freed GROUP BY freed.queue, freed.owner_id
),
-- One that another relay is changing is not waited for: that could end in a deadlock.
chargeable AS MATERIALIZED (
    SELECT caller_turn.queue, caller_turn.owner_id, used.turns
    FROM used JOIN caller_turns AS caller_turn
        ON caller_turn.queue = ANY (ARRAY[used.queue]) AND caller_turn.owner_id = ANY (ARRAY[used.owner_id])
    WHERE used.turns > 0 FOR UPDATE OF caller_turn SKIP LOCKED
),
charged AS (
    UPDATE caller_turns AS caller_turn SET last_turn = caller_turn.last_turn + chargeable.turns FROM chargeable
    WHERE caller_turn.queue = ANY (ARRAY[chargeable.queue]) AND caller_turn.owner_id = ANY (ARRAY[chargeable.owner_id])
),
unblocked AS (
    UPDATE tasks task SET blocked_at = NULL, turn = coalesce(task.turn, freed.turn)
    FROM freed WHERE task.id = ANY (ARRAY[freed.id]) AND {_IS_BLOCKED}
    RETURNING task.id
)
SELECT (SELECT count(*) FROM groups) AS groups, (SELECT count(*) FROM unblocked) AS unblocked"""
"""Make blocked tasks due again, as many of each key as it has room for. Returns (groups, unblocked).

`groups` is the number of groups of blocked tasks that differ in their keys, queue, kind or caller: while there are any, the
statement must be executed again. It reads a few index entries for each group, however many tasks are blocked; each group has
room made by tasks that are published or running, so there are hardly more groups than those.

The first tasks of each group become due, so that a paused kind or a full queue holds no other one back; the statement that
publishes decides which of them start. A task that was blocked while younger tasks of its caller were published gets the
least turn of those, which is charged to its caller: the next turn of the caller is later by as much.
"""
