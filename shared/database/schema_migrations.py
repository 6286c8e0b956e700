"""Migrates the schema of the database to the newest revision."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import Connection, Engine

from shared.database.app_role import create_app_role, find_app_role, grant_to_app_role
from shared.database.connections import make_engine
from shared.database.schema_version import VERSIONS, newest_revision, require_known_schema
from shared.settings import Settings

if TYPE_CHECKING:
    from alembic.config import Config


@dataclass(frozen=True)
class MigrationOutcome:
    """What `migrate` did: the revisions before (None for a database without tables) and after, and the application role."""

    before: str | None
    after: str
    app_role: str | None

    def describe(self) -> str:
        """Return the outcome as sentences for the operator."""
        if self.before == self.after:
            text = f"The database is at revision {self.after} already: there was nothing to migrate."
        elif self.before is None:
            text = f"The tables were created, at revision {self.after}."
        else:
            text = f"The database was migrated from revision {self.before} to {self.after}."
        return text if self.app_role is None else f"{text} The role {self.app_role} may read and write rows."


def migrate(settings: Settings) -> MigrationOutcome:
    """Create or upgrade the tables, and grant the application role its rights, if there is one.

    Does not change the tables when they are up to date. Raises `SchemaTooNew`, and `ConfigurationError` when the
    application role cannot be created. Any number of processes may call it at once: the first one migrates, the others wait.
    """
    as_owner = settings.model_copy(update={"database_url": settings.migration_url})
    create_app_role(settings)
    before = require_known_schema(as_owner)
    if before != newest_revision():
        engine = make_engine(as_owner, "migrate", timeout_seconds=None)
        try:
            upgrade(engine)
        finally:
            engine.dispose()
    grant_to_app_role(settings)
    return MigrationOutcome(before, newest_revision(), find_app_role(settings))


def upgrade(engine: Engine, revision: str = "head") -> None:
    """Upgrade to a revision."""
    # Imported here, because the import would take a large part of the time of a start that has nothing to migrate.
    from alembic import command

    with engine.connect() as connection:
        command.upgrade(_configure(connection), revision)


def downgrade(engine: Engine, revision: str) -> None:
    """Undo the migrations after a revision, and delete what only they can store. For development.

    An installation does not need it: the version before runs on the newer tables.
    """
    from alembic import command

    with engine.connect() as connection:
        command.downgrade(_configure(connection), revision)


def _configure(connection: Connection) -> Config:
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(VERSIONS.parent))
    config.set_main_option("file_template", "%%(year)d_%%(month).2d_%%(day).2d_%%(hour).2d%%(minute).2d_%%(slug)s")
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    return config
