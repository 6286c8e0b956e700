"""Brings the database's schema up to this version, and refuses one that is newer."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import OperationalError

from shared.database import make_engine
from shared.errors import SchemaTooNew
from shared.settings import Settings

MIGRATIONS = Path(__file__).resolve().parent.parent / "migrations"


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.set_main_option("file_template", "%%(year)d_%%(month).2d_%%(day).2d_%%(hour).2d%%(minute).2d_%%(slug)s")
    config.set_main_option("path_separator", "os")
    return config


def migrate(settings: Settings) -> None:
    """Create or upgrade the tables; does nothing when they are up to date. Raises `SchemaTooNew`.

    Any number of processes may call it at once: the first one works, the others wait.
    """
    engine = make_engine(settings, "migrate", timeout_seconds=None)
    try:
        upgrade(engine)
    finally:
        engine.dispose()


def upgrade(engine: Engine, revision: str = "head") -> None:
    """Upgrade to a revision."""
    with engine.connect() as connection:
        refuse_newer_schema(connection)
        config = _config()
        config.attributes["connection"] = connection
        command.upgrade(config, revision)


def refuse_newer_schema(connection: Connection) -> None:
    """Raise `SchemaTooNew` when the database is at a revision that this version does not know."""
    found = find_revision(connection)
    known = {script.revision for script in ScriptDirectory.from_config(_config()).walk_revisions()}
    if found is not None and found not in known:
        raise SchemaTooNew(found)


def find_revision(connection: Connection) -> str | None:
    """Give the revision that the database is at; none when it was never migrated."""
    with connection.begin_nested() if connection.in_transaction() else connection.begin():
        return MigrationContext.configure(connection).get_current_revision()


def newest_revision() -> str:
    """Give the revision that this version brings a database to."""
    head = ScriptDirectory.from_config(_config()).get_current_head()
    assert head is not None
    return head


def require_current_schema(settings: Settings) -> None:
    """Raise `SchemaTooNew` when the database is newer than this version, which must then not touch it.

    A database that does not answer is no reason not to start: the process waits for it.
    """
    engine = make_engine(settings, "schema", pool_size=1)
    try:
        with engine.connect() as connection:
            refuse_newer_schema(connection)
    except OperationalError:
        pass
    finally:
        engine.dispose()
