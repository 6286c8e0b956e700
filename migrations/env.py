"""How migrations run: one at a time, under an advisory lock, with bounds on waits for locks and on statements."""

from __future__ import annotations

from alembic import context
from sqlalchemy import Connection, text

from shared.queries.schema import MIGRATION_LOCK
from shared.tables.base import metadata
from shared.tables.every_table import EVERY_TABLE


def run() -> None:
    """Bring the connection's database to the revision asked for."""
    connection: Connection = context.config.attributes["connection"]
    connection.execute(text("SELECT pg_advisory_lock(:key)"), {"key": MIGRATION_LOCK})
    connection.commit()
    try:
        # A migration that cannot get its lock soon must fail and be tried again, not queue everyone behind it.
        connection.execute(text("SET lock_timeout = '5s'"))
        connection.execute(text("SET statement_timeout = '10min'"))
        connection.commit()
        context.configure(connection=connection, target_metadata=metadata, compare_server_default=False)
        with context.begin_transaction():
            context.run_migrations()
        connection.commit()
    finally:
        connection.rollback()
        connection.execute(text("SELECT pg_advisory_unlock(:key)"), {"key": MIGRATION_LOCK})
        connection.commit()


assert EVERY_TABLE
run()
