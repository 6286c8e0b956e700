"""Parts of statements that count tasks against the limits on what runs at once, of an organization and of a caller.

These are rows of `limits` named `running`, `running_by_queue` and `running_by_kind`. A published task counts as running:
workers may claim it at any time. A trigger of `limits` undoes the mark of the published tasks for which a changed limit
counts, so that a new limit is in force when it is committed; what runs goes on. The platform's own tasks are not limited.
"""

from __future__ import annotations

from typing import Final

from shared.tables.limits import DEFAULT_SUBJECT
from shared.tasks.submission import PLATFORM_ID

IS_RUNNING_LIMIT: Final = "name IN ('running', 'running_by_queue', 'running_by_kind')"

RUNNING_LIMITS: Final = f"""applicable AS MATERIALIZED (
    SELECT DISTINCT ON (subject.scope, subject.id, limited.name, limited.target)
        subject.scope, subject.id, limited.name, limited.target, limited.amount
    FROM subjects AS subject
    JOIN limits AS limited ON limited.scope = subject.scope AND limited.subject_id IN (subject.id, '{DEFAULT_SUBJECT}')
        AND limited.{IS_RUNNING_LIMIT}
    WHERE subject.id <> '{PLATFORM_ID}' AND (SELECT EXISTS (SELECT FROM limits WHERE {IS_RUNNING_LIMIT}))
    ORDER BY subject.scope, subject.id, limited.name, limited.target, limited.subject_id = '{DEFAULT_SUBJECT}'
),
active_tasks AS MATERIALIZED (
    -- The orders make Postgres read the indexes of leases and of published tasks, whatever its statistics are.
    (SELECT task.organization_id, task.owner_id, task.queue, task.kind FROM tasks task
     WHERE task.status = 'running' AND task.lease_until > '-infinity' AND (SELECT EXISTS (SELECT FROM applicable))
     ORDER BY task.lease_until)
    UNION ALL
    (SELECT task.organization_id, task.owner_id, task.queue, task.kind FROM tasks task
     WHERE task.status = 'queued' AND task.rung_at IS NOT NULL AND (SELECT EXISTS (SELECT FROM applicable))
     ORDER BY task.queue, task.turn NULLS FIRST)
),
active AS MATERIALIZED (
    SELECT organization_id, owner_id, queue, kind, count(*) AS tasks FROM active_tasks
    GROUP BY organization_id, owner_id, queue, kind
),
running_limits AS MATERIALIZED (
    SELECT applicable.*, (applicable.amount - coalesce((
        SELECT sum(active.tasks) FROM active
        WHERE CASE applicable.scope WHEN 'caller' THEN active.owner_id ELSE active.organization_id END = applicable.id
            AND CASE applicable.name WHEN 'running_by_queue' THEN active.queue = applicable.target
                WHEN 'running_by_kind' THEN active.kind = applicable.target ELSE true END), 0))::bigint AS free
    FROM applicable WHERE applicable.amount IS NOT NULL
)"""
"""The limits of the rows (scope, id) of `subjects`, as common table expressions: `running_limits` has one row for each limit.

`free` is how many more tasks may be published; it may be negative. Without any such limit in the database, none of the
tables is read but `limits`.
"""


def limits_task(limit: str, *, owner: str, organization: str, queue: str, kind: str) -> str:
    """Return the condition that the limit of an alias of `running_limits` counts for a task."""
    return f"""{limit}.id = CASE {limit}.scope WHEN 'caller' THEN {owner} ELSE {organization} END
            AND CASE {limit}.name WHEN 'running_by_queue' THEN {limit}.target = {queue}
                WHEN 'running_by_kind' THEN {limit}.target = {kind} ELSE true END"""
