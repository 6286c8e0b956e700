"""Statements on what organizations and callers use: the counts that functions of the database keep.

Each backend of Postgres has rows of its own (`shared/tables/usage.py`). Maintenance adds them up in the rows of writer 0, and
leaves out rows that a transaction has locked: it never waits for one that counts, and none waits long for it.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import Executable, text

USAGE_DAYS: Final = 400
"""For how many days the counts of a day are kept."""

_ADD_UP_DAYS: Final = """
WITH gone AS (
    DELETE FROM usage_by_day WHERE (organization_id, day, owner_id, writer) IN (
        SELECT organization_id, day, owner_id, writer FROM usage_by_day
        WHERE writer <> 0 AND day < (now() AT TIME ZONE 'UTC')::date LIMIT :limit FOR UPDATE SKIP LOCKED)
    RETURNING organization_id, day, owner_id, tasks, emails, recipients
),
added AS (
    INSERT INTO usage_by_day AS counted (organization_id, day, owner_id, writer, tasks, emails, recipients)
    SELECT organization_id, day, owner_id, 0, sum(tasks), sum(emails), sum(recipients) FROM gone
    GROUP BY organization_id, day, owner_id
    ON CONFLICT (organization_id, day, owner_id, writer) DO UPDATE SET tasks = counted.tasks + excluded.tasks,
        emails = counted.emails + excluded.emails, recipients = counted.recipients + excluded.recipients
)
SELECT FROM gone"""

_ADD_UP_STORED_BYTES: Final = """
WITH gone AS (
    DELETE FROM stored_bytes WHERE (organization_id, owner_id, writer) IN (
        SELECT organization_id, owner_id, writer FROM stored_bytes WHERE writer <> 0 LIMIT :limit FOR UPDATE SKIP LOCKED)
    RETURNING organization_id, owner_id, bytes, files
),
added AS (
    INSERT INTO stored_bytes AS counted (organization_id, owner_id, writer, bytes, files)
    SELECT organization_id, owner_id, 0, sum(bytes), sum(files) FROM gone GROUP BY organization_id, owner_id
    ON CONFLICT (organization_id, owner_id, writer) DO UPDATE
    SET bytes = counted.bytes + excluded.bytes, files = counted.files + excluded.files
)
SELECT FROM gone"""

_DROP_OLD_DAYS: Final = f"""
DELETE FROM usage_by_day WHERE (organization_id, day, owner_id, writer) IN (
    SELECT organization_id, day, owner_id, writer FROM usage_by_day
    WHERE day < (now() AT TIME ZONE 'UTC')::date - {USAGE_DAYS} LIMIT :limit)"""

_DROP_OLD_WARNINGS: Final = """
DELETE FROM quota_warnings WHERE (subject_id, scope, name, day) IN (
    SELECT subject_id, scope, name, day FROM quota_warnings WHERE day < (now() AT TIME ZONE 'UTC')::date - 7 LIMIT :limit)"""


def add_up_days(limit: int) -> Executable:
    """Add up the counts of the days before today, of up to `limit` rows; return a row for each."""
    return text(_ADD_UP_DAYS).bindparams(limit=limit)


def add_up_stored_bytes(limit: int) -> Executable:
    """Add up the counts of stored bytes, of up to `limit` rows; return a row for each."""
    return text(_ADD_UP_STORED_BYTES).bindparams(limit=limit)


def drop_old_days(limit: int) -> Executable:
    """Delete the counts of days more than `USAGE_DAYS` days ago."""
    return text(_DROP_OLD_DAYS).bindparams(limit=limit)


def drop_old_warnings(limit: int) -> Executable:
    """Delete which warnings were sent more than a week ago."""
    return text(_DROP_OLD_WARNINGS).bindparams(limit=limit)
