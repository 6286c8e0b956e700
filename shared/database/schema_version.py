"""Which revision a database is at, and whether this version knows it; without the machinery that migrates."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final

import psycopg

from shared.database.connections import CONNECT_TIMEOUT_SECONDS
from shared.errors import SchemaTooNew
from shared.queries.schema import FIND_REVISION, IS_VERSIONED
from shared.settings import Settings

VERSIONS: Final = Path(__file__).resolve().parents[2] / "migrations" / "versions"
_REVISION: Final = re.compile(r'^revision = ["\'](\w+)["\']', re.MULTILINE)
_DOWN_REVISION: Final = re.compile(r'^down_revision = ["\'](\w+)["\']', re.MULTILINE)


def known_revisions() -> frozenset[str]:
    """Give every revision that this version knows."""
    return frozenset(name for text in _texts() for name in _REVISION.findall(text))


def newest_revision() -> str:
    """Give the revision that this version brings a database to: the one that no other builds on."""
    (newest,) = known_revisions() - {name for text in _texts() for name in _DOWN_REVISION.findall(text)}
    return newest


def find_revision(connection: psycopg.Connection[Any]) -> str | None:
    """Give the revision that a database is at; none when it was never migrated."""
    row = connection.execute(IS_VERSIONED).fetchone()
    if row is None or not row[0]:
        return None
    row = connection.execute(FIND_REVISION).fetchone()
    return None if row is None else str(row[0])


def require_known_schema(settings: Settings) -> str | None:
    """Give the database's revision. Raises `SchemaTooNew` when this version does not know it, and must not touch it.

    Raises `psycopg.OperationalError` when the database does not answer.
    """
    with psycopg.connect(
        settings.database_url,
        autocommit=True,
        connect_timeout=CONNECT_TIMEOUT_SECONDS,
        application_name="taskmill-schema",
    ) as connection:
        found = find_revision(connection)
    if found is not None and found not in known_revisions():
        raise SchemaTooNew(found)
    return found


def refuse_newer_schema(settings: Settings) -> None:
    """Raise `SchemaTooNew` before a part starts that does not know the schema.

    A database that does not answer is no reason not to start: the part waits for it.
    """
    try:
        require_known_schema(settings)
    except psycopg.OperationalError:
        return


def _texts() -> list[str]:
    return [path.read_text(encoding="utf-8") for path in sorted(VERSIONS.glob("*.py"))]
