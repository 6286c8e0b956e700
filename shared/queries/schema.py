"""Statements on the revision of the schema, plain SQL for psycopg."""

from __future__ import annotations

from typing import Final

MIGRATION_LOCK: Final = 7_305_114_400_001
"""The advisory lock of whoever changes the schema or its rights; others wait for it."""

LOCK_MIGRATIONS: Final = f"SELECT pg_advisory_xact_lock({MIGRATION_LOCK})"
"""Wait for the migration lock, and hold it until the end of the transaction."""

IS_VERSIONED: Final = "SELECT to_regclass('alembic_version') IS NOT NULL"
"""Return whether the database was ever migrated."""

FIND_REVISION: Final = "SELECT version_num FROM alembic_version"
"""Return the revision that the database is at."""
