"""Statements that count what is on the platform, for its admins."""

from __future__ import annotations

from typing import Final

from sqlalchemy import text

COUNT_PEOPLE: Final = text("""
SELECT (SELECT count(*) FROM people) AS people,
    (SELECT count(*) FROM people WHERE disabled_at IS NOT NULL) AS disabled,
    (SELECT count(*) FROM second_factors WHERE confirmed_at IS NOT NULL) AS with_second_factor,
    (SELECT count(*) FROM organizations) AS organizations,
    (SELECT count(*) FROM sessions WHERE ended_at IS NULL AND expires_at > now()) AS sessions""")
"""Count people, those that are disabled, those with a second factor, organizations, and sessions that have not ended."""

COUNT_TASKS: Final = text("SELECT status, count(*) AS tasks FROM tasks GROUP BY status ORDER BY status")
"""Count tasks by status."""

COUNT_FAILED: Final = text(
    "SELECT count(*) FROM tasks WHERE status = 'failed' AND finished_at > now() - interval '1 day'"
)
"""Count the tasks that failed within the last 24 hours."""

COUNT_FILES: Final = text("SELECT count(*) AS files, coalesce(sum(size), 0)::bigint AS bytes FROM files")
"""Count the files that are stored, and their bytes."""
