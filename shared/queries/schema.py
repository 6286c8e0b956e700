"""Statements on the revision of the schema, plain SQL for psycopg."""

from __future__ import annotations

from typing import Final

MIGRATION_LOCK: Final = 7_305_114_400_001
"""The advisory lock of the process that migrates."""

ROLE_LOCK: Final = 7_305_114_400_003
"""The advisory lock of the process that creates the application role or grants to it. It is not the migration lock: a statement
that waits inside Postgres holds a snapshot, and a migration that creates an index concurrently waits for all of those."""

LOCK_ROLES: Final = f"SELECT pg_advisory_xact_lock({ROLE_LOCK})"
"""Wait for the lock of the roles, and hold it until the end of the transaction."""

IS_VERSIONED: Final = "SELECT to_regclass('alembic_version') IS NOT NULL"
"""Return whether the database was ever migrated."""

FIND_REVISION: Final = "SELECT version_num FROM alembic_version"
"""Return the revision that the database is at."""
