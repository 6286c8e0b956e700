"""Runs migrations: one process at a time, under an advisory lock, with timeouts for locks and statements."""

from __future__ import annotations

import time

from alembic import context
from sqlalchemy import Connection, text

from shared.queries.schema import MIGRATION_LOCK
from shared.tables.base import metadata
from shared.tables.every_table import EVERY_TABLE

LOCK_POLL_SECONDS = 0.1


def _wait_for_lock(connection: Connection) -> None:
    """Acquire the migration lock by polling.

    A statement that waits for the lock inside Postgres would hold a snapshot. `CREATE INDEX CONCURRENTLY` in the process that
    has the lock waits for all snapshots, so that both would wait for each other: a deadlock.
    """
    while True:
        is_mine = connection.execute(text("SELECT pg_try_advisory_lock(:key)"), {"key": MIGRATION_LOCK}).scalar()
        connection.commit()
        if is_mine:
            return
        time.sleep(LOCK_POLL_SECONDS)


def run() -> None:
    """Migrate the connection's database to the revision that was asked for."""
    connection: Connection = context.config.attributes["connection"]
    _wait_for_lock(connection)
    try:
        # A migration that does not get a lock soon fails, so that other statements do not queue behind it. Run it again then.
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
