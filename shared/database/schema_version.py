"""Which revision a database is at, and whether this version knows it. It does not import Alembic, which is slow to load."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any, Final

import psycopg
import structlog

from shared.database.connections import CONNECT_TIMEOUT_SECONDS
from shared.errors import ConfigurationError, SchemaTooNew
from shared.outage_log import OUTAGE_LOG_SECONDS, OutageLog
from shared.queries.schema import FIND_REVISION, IS_VERSIONED
from shared.settings import DatabaseSettings

log = structlog.get_logger()

MIGRATE_FIRST: Final = "run `taskmill migrate`"
POLL_SECONDS: Final = 0.5
VERSIONS: Final = Path(__file__).resolve().parents[2] / "migrations" / "versions"
_REVISION: Final = re.compile(r'^revision = ["\'](\w+)["\']', re.MULTILINE)
_DOWN_REVISION: Final = re.compile(r'^down_revision = ["\'](\w+)["\']', re.MULTILINE)


def known_revisions() -> frozenset[str]:
    """Return every revision that this version knows."""
    return frozenset(name for text in _read_migrations() for name in _REVISION.findall(text))


def newest_revision() -> str:
    """Return the revision that this version brings a database to: the one that no other revision has as its `down_revision`."""
    (newest,) = known_revisions() - {name for text in _read_migrations() for name in _DOWN_REVISION.findall(text)}
    return newest


def find_revision(connection: psycopg.Connection[Any]) -> str | None:
    """Return the revision that a database is at, or None if it was never migrated."""
    row = connection.execute(IS_VERSIONED).fetchone()
    if row is None or not row[0]:
        return None
    row = connection.execute(FIND_REVISION).fetchone()
    return None if row is None else str(row[0])


def require_known_schema(settings: DatabaseSettings) -> str | None:
    """Return the database's revision, or None if it was never migrated.

    Raises `SchemaTooNew` when this version does not know the revision, `ConfigurationError` when the role may not read
    it, and `psycopg.OperationalError` when the database does not answer.
    """
    with psycopg.connect(
        settings.database_url,
        autocommit=True,
        connect_timeout=CONNECT_TIMEOUT_SECONDS,
        application_name="taskmill-schema",
    ) as connection:
        try:
            found = find_revision(connection)
        except psycopg.errors.InsufficientPrivilege:
            raise ConfigurationError(
                "the role of TASKMILL_DATABASE_URL may not read the tables: run `taskmill migrate` with the role that owns "
                "them in TASKMILL_DATABASE_OWNER_URL"
            ) from None
    if found is not None and found not in known_revisions():
        raise SchemaTooNew(found)
    return found


def wait_for_schema(settings: DatabaseSettings) -> None:
    """Wait until the database is at the newest revision. While it is not, log the reason at once and every 30 seconds.

    Parts may thus be started before `taskmill migrate` has ended. Raises `SchemaTooNew`, and `ConfigurationError` when the
    role may not read the tables.
    """
    outage = OutageLog()
    silent_until = 0.0
    while True:
        try:
            found = require_known_schema(settings)
        except psycopg.OperationalError as error:
            outage.warn(error)
        else:
            outage.end()
            if found == newest_revision():
                return
            if time.monotonic() >= silent_until:
                log.warning("database_not_migrated", revision=found, needed=newest_revision(), todo=MIGRATE_FIRST)
                silent_until = time.monotonic() + OUTAGE_LOG_SECONDS
        time.sleep(POLL_SECONDS)


def refuse_newer_schema(settings: DatabaseSettings) -> None:
    """Raise `SchemaTooNew` if this version does not know the schema, before a part starts.

    Returns without an error if the database does not answer, because the part itself waits for it.
    """
    try:
        require_known_schema(settings)
    except psycopg.OperationalError:
        return


def _read_migrations() -> list[str]:
    return [path.read_text(encoding="utf-8") for path in sorted(VERSIONS.glob("*.py"))]
