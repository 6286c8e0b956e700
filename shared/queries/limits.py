"""Statements on limits. Plain SQL, for psycopg and SQLAlchemy."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final
from uuid import UUID

from shared.limits import Limits, Scope

LIST_LIMITS: Final = """
SELECT name, target, amount, allowed FROM limits WHERE subject_id = %(subject_id)s::uuid AND scope = %(scope)s
ORDER BY name, target"""
"""List the limits that an organization or a caller has itself: (name, target, amount, allowed)."""

LIST_EFFECTIVE_LIMITS: Final = """
SELECT DISTINCT ON (own.scope, own.name, own.target) own.scope, own.name, own.target, own.amount, own.allowed
FROM limits AS own
WHERE own.subject_id IN ('00000000-0000-0000-0000-000000000000', %(organization_id)s::uuid, %(caller_id)s::uuid)
    AND own.subject_id IN ('00000000-0000-0000-0000-000000000000',
        CASE own.scope WHEN 'organization' THEN %(organization_id)s::uuid ELSE %(caller_id)s::uuid END)
ORDER BY own.scope, own.name, own.target, own.subject_id DESC"""
"""List the limits that hold for a caller: those of its organization and its own (scope, name, target, amount, allowed)."""

DELETE_LIMITS: Final = "DELETE FROM limits WHERE subject_id = %(subject_id)s::uuid AND scope = %(scope)s"
"""Delete the limits of an organization or a caller. `INSERT_LIMIT` then stores the others."""

INSERT_LIMIT: Final = """
INSERT INTO limits (subject_id, scope, name, target, amount, allowed)
VALUES (%(subject_id)s, %(scope)s, %(name)s, %(target)s, %(amount)s, %(allowed)s)
ON CONFLICT (subject_id, scope, name, target) DO UPDATE
SET amount = excluded.amount, allowed = excluded.allowed, updated_at = now()"""
"""Store a limit."""

FORGET_LIVE_TASK_BOUNDS: Final = """
DELETE FROM live_task_bounds WHERE scope = %(scope)s
    AND %(subject_id)s::uuid IN (subject_id, '00000000-0000-0000-0000-000000000000')"""
"""Delete what is known of the live tasks of an organization or a caller, or of all for the default: they are counted anew."""


def replace_limits(subject_id: UUID, scope: Scope, limits: Limits) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the statements, with their parameters, that replace the limits of an organization or a caller."""
    subject: dict[str, Any] = {"subject_id": subject_id, "scope": scope}
    yield DELETE_LIMITS, subject
    for row in limits.rows():
        yield INSERT_LIMIT, {**subject, **row._asdict()}
    yield FORGET_LIVE_TASK_BOUNDS, subject


FIND_CALLER: Final = "SELECT organization_id FROM callers WHERE id = %(caller_id)s"
"""Find the organization of a caller."""

READ_USAGE: Final = """
SELECT coalesce(sum(tasks), 0)::bigint AS tasks_per_day, coalesce(sum(emails), 0)::bigint AS emails_per_day,
    coalesce(sum(recipients), 0)::bigint AS recipients_per_day,
    (SELECT coalesce(sum(bytes), 0)::bigint FROM stored_bytes AS stored WHERE stored.organization_id = %(organization_id)s::uuid
        AND (%(caller_id)s::uuid IS NULL OR stored.owner_id = %(caller_id)s::uuid)) AS stored_bytes,
    coalesce(taskmill_count_live(%(organization_id)s::uuid, %(caller_id)s::uuid), 0) AS live_tasks,
    (now() AT TIME ZONE 'UTC')::date AS day
FROM usage_by_day AS counted
WHERE counted.organization_id = %(organization_id)s::uuid AND counted.day = (now() AT TIME ZONE 'UTC')::date
    AND (%(caller_id)s::uuid IS NULL OR counted.owner_id = %(caller_id)s::uuid)"""
"""Read what an organization, or one caller of it, uses now, in columns of the names of the limits; and the day."""

LIST_USAGE_BY_DAY: Final = """
SELECT counted.day, sum(counted.tasks)::bigint AS tasks, sum(counted.emails)::bigint AS emails,
    sum(counted.recipients)::bigint AS recipients
FROM usage_by_day AS counted
WHERE counted.organization_id = %(organization_id)s::uuid AND counted.day > (now() AT TIME ZONE 'UTC')::date - %(days)s::int
    AND (%(caller_id)s::uuid IS NULL OR counted.owner_id = %(caller_id)s::uuid)
GROUP BY counted.day ORDER BY counted.day DESC"""
"""List what was submitted in each of the last days, newest first: (day, tasks, emails, recipients)."""

FIND_ORGANIZATION_BY_NAME: Final = "SELECT id FROM organizations WHERE name = %(name)s OR id::text = %(name)s"
"""Find an organization by its name or its id."""

FIND_CALLER_BY_NAME: Final = """
SELECT id FROM callers WHERE organization_id = %(organization_id)s AND (name = %(name)s OR id::text = %(name)s)"""
"""Find a person or service of an organization by its name or its id."""
