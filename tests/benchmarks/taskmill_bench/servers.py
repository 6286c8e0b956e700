"""The Postgres and the broker that all systems of a run share, and the counters of both."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import psycopg
import redis
from psycopg import sql

from cli.local_stack.broker import BrokerServer
from cli.local_stack.postgres import PostgresServer


class UncountedRedis(redis.Redis):
    """A client that counts its own commands, so that they are not counted as work of a system."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.own_commands = 0

    def execute_command(self, *args: Any, **options: Any) -> Any:
        self.own_commands += 1
        return super().execute_command(*args, **options)


@dataclass(frozen=True)
class Counters:
    """The counters of the servers at one moment."""

    broker_commands: int
    write_transactions: int
    wal_bytes: int


class Servers:
    """A Postgres with full durability, and a Valkey with an append-only file."""

    def __init__(self, folder: Path, postgres: PostgresServer, broker: BrokerServer) -> None:
        self.folder = folder
        self._postgres = postgres
        self._broker = broker
        self.redis = UncountedRedis.from_url(broker.url)

    @property
    def broker_url(self) -> str:
        return self._broker.url

    @property
    def postgres_pid(self) -> int:
        return cast(int, self._postgres.pid)

    @property
    def broker_pid(self) -> int:
        return cast(int, self._broker.pid)

    def database_url(self, name: str) -> str:
        """Return the URL of a database, in the form of libpq."""
        return self._postgres.url.rsplit("/", 1)[0] + "/" + name

    def clear_broker(self) -> None:
        """Empty the broker."""
        self.redis.flushall()

    def create_database(self, name: str, template: str = "template1") -> str:
        """Create a database from a template, in place of an older one, and return its URL."""
        self.drop_database(name)
        with self._administration() as connection:
            statement = sql.SQL("CREATE DATABASE {} TEMPLATE {}")
            connection.execute(statement.format(sql.Identifier(name), sql.Identifier(template)))
        return self.database_url(name)

    def drop_database(self, name: str) -> None:
        """Drop a database if it exists."""
        with self._administration() as connection:
            statement = sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)")
            connection.execute(statement.format(sql.Identifier(name)))

    def checkpoint(self) -> None:
        """Write everything to disk, so that a system does not pay for the writes of the one before it."""
        with self._administration() as connection:
            connection.execute("CHECKPOINT")

    def count(self) -> Counters:
        """Return the counters, without the commands that this process sent to the broker."""
        stats = cast(dict[str, dict[str, int]], self.redis.info("commandstats"))
        commands = sum(entry["calls"] for entry in stats.values()) - self.redis.own_commands
        with self._administration() as connection:
            row = connection.execute(
                "SELECT pg_snapshot_xmax(pg_current_snapshot())::text, pg_current_wal_lsn() - '0/0'::pg_lsn"
            ).fetchone()
        assert row is not None
        return Counters(commands, int(row[0]), int(row[1]))

    def versions(self) -> dict[str, str]:
        """Return the versions of both servers."""
        with self._administration() as connection:
            row = connection.execute("SHOW server_version").fetchone()
        assert row is not None
        server = cast(dict[str, Any], self.redis.info("server"))
        return {"postgres": str(row[0]), "broker": str(server.get("valkey_version") or server["redis_version"])}

    def _administration(self) -> psycopg.Connection[tuple[Any, ...]]:
        return psycopg.connect(self._postgres.url, autocommit=True, connect_timeout=10)


@contextlib.contextmanager
def run_servers() -> Iterator[Servers]:
    """Run both servers in a folder that is deleted at the end."""
    folder = Path(tempfile.mkdtemp(prefix="taskmill-bench-"))
    # Postgres, started by root, runs as another account, which must be able to reach its files.
    folder.chmod(0o711)
    postgres = PostgresServer(folder / "postgres")
    try:
        with postgres, BrokerServer(folder / "broker") as broker:
            servers = Servers(folder, postgres, broker)
            try:
                yield servers
            finally:
                servers.redis.close()
    finally:
        postgres.remove()
        shutil.rmtree(folder, ignore_errors=True)
