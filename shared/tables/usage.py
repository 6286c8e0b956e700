"""Tables of what organizations and callers use. Functions of the database keep them (`migrations/functions/taskmill_count_*`).

`writer` is the process id of the backend of Postgres that counted. Each backend has rows of its own, so that no transaction
waits for another one to count; a sum over the writers is what is used. Writer 0 has what `maintenance.drop_old_rows` has
added up.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, CheckConstraint, Column, Date, Integer, Table, Text, Uuid

from shared.tables.base import metadata

usage_by_day = Table(
    "usage_by_day",
    metadata,
    Column("organization_id", Uuid, primary_key=True),
    # In UTC.
    Column("day", Date, primary_key=True),
    Column("owner_id", Uuid, primary_key=True),
    Column("writer", Integer, primary_key=True, autoincrement=False),
    Column("tasks", BigInteger, nullable=False),
    Column("emails", BigInteger, nullable=False),
    Column("recipients", BigInteger, nullable=False),
    postgresql_with={"fillfactor": "50"},
)

stored_bytes = Table(
    "stored_bytes",
    metadata,
    Column("organization_id", Uuid, primary_key=True),
    Column("owner_id", Uuid, primary_key=True),
    Column("writer", Integer, primary_key=True, autoincrement=False),
    # Negative where a backend has deleted more than it stored.
    Column("bytes", BigInteger, nullable=False),
    Column("files", BigInteger, nullable=False),
    postgresql_with={"fillfactor": "50"},
)

live_task_bounds = Table(
    "live_task_bounds",
    metadata,
    # An organization or a caller whose live tasks are limited.
    Column("subject_id", Uuid, primary_key=True),
    Column("scope", Text, primary_key=True),
    # How many live tasks it has at most. The end of a task does not lower it; it is counted anew when it exceeds the limit.
    Column("bound", BigInteger, nullable=False),
    CheckConstraint("scope IN ('organization', 'caller')", name="known_scope"),
)

quota_warnings = Table(
    "quota_warnings",
    metadata,
    Column("subject_id", Uuid, primary_key=True),
    Column("scope", Text, primary_key=True),
    Column("name", Text, primary_key=True),
    Column("day", Date, primary_key=True),
    CheckConstraint("scope IN ('organization', 'caller')", name="known_scope"),
)
