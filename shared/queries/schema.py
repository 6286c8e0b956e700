"""Statements on the revision of the schema, plain SQL for psycopg."""

from __future__ import annotations

from typing import Final

MIGRATION_LOCK: Final = 7_305_114_400_001
"""The advisory lock of the process that migrates."""

ROLE_LOCK: Final = 7_305_114_400_003
"""The advisory lock of the process that creates the application role or grants to it.

It differs from the migration lock, because a statement that waits for a lock holds a snapshot, and a migration that creates an
index concurrently waits for all snapshots.
"""

LOCK_ROLES: Final = f"SELECT pg_advisory_xact_lock({ROLE_LOCK})"
"""Acquire `ROLE_LOCK` until the end of the transaction; wait while another process has it."""

IS_VERSIONED: Final = "SELECT to_regclass('alembic_version') IS NOT NULL"
"""Return whether the database was ever migrated."""

FIND_REVISION: Final = "SELECT version_num FROM alembic_version"
"""Return the revision that the database is at."""
