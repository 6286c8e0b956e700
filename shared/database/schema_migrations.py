"""Brings the database's schema up to this version."""

from __future__ import annotations

from sqlalchemy import Engine

from shared.database.connections import make_engine
from shared.database.schema_version import VERSIONS, newest_revision, require_known_schema
from shared.settings import Settings


def migrate(settings: Settings) -> None:
    """Create or upgrade the tables; does nothing when they are up to date. Raises `SchemaTooNew`.

    Any number of processes may call it at once: the first one works, the others wait.
    """
    if require_known_schema(settings) == newest_revision():
        return
    engine = make_engine(settings, "migrate", timeout_seconds=None)
    try:
        upgrade(engine)
    finally:
        engine.dispose()


def upgrade(engine: Engine, revision: str = "head") -> None:
    """Upgrade to a revision."""
    # Loaded only when there is something to do: it takes a good part of a second start's time.
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(VERSIONS.parent))
    config.set_main_option("file_template", "%%(year)d_%%(month).2d_%%(day).2d_%%(hour).2d%%(minute).2d_%%(slug)s")
    config.set_main_option("path_separator", "os")
    with engine.connect() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, revision)
