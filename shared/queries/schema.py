"""Statements on the schema's own version, plain SQL for psycopg."""

from __future__ import annotations

from typing import Final

IS_VERSIONED: Final = "SELECT to_regclass('alembic_version') IS NOT NULL"
"""Tell whether the database was ever migrated."""

FIND_REVISION: Final = "SELECT version_num FROM alembic_version"
"""Find the revision that the database is at."""
