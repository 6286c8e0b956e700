"""Connections to Postgres: SQLAlchemy engines for ordinary work, bare psycopg connections for the hot statements.

The hot statements (`shared/queries/hot_tasks.py`) read rows by index only. Postgres keeps the plan of a prepared statement,
and a plan made while a table was nearly empty would scan the whole table for as long as the connection lasts. So the
connections of these statements use generic plans, without sequential scans and without joins that need one.
"""

from __future__ import annotations

import asyncio
import math
import os
import socket
from collections.abc import Awaitable, Callable
from typing import Any, Final

import psycopg
import structlog
from psycopg.abc import RV, PQGen
from sqlalchemy import URL, Engine, create_engine
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from shared.settings import Settings

log = structlog.get_logger()

INDEX_SCAN_OPTIONS = (
    "-c plan_cache_mode=force_generic_plan -c jit=off "
    "-c enable_seqscan=off -c enable_hashjoin=off -c enable_mergejoin=off"
)
CONNECT_TIMEOUT_SECONDS = 5
TCP_KEEPALIVE = {
    "keepalives": 1,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    # Keepalive does not apply while sent data is unacknowledged: Linux would retransmit it for 15 minutes.
    "tcp_user_timeout": 25_000,
}


ROUND_TRIP_GRACE_SECONDS: Final = 0.5
"""How much longer than `statement_timeout` a round trip may take, so that a server that works can send its own error."""


class BoundedConnection(psycopg.AsyncConnection[tuple[Any, ...]]):
    """A connection that closes when a round trip takes longer than `round_trip_seconds`.

    `statement_timeout` ends a slow statement, but only if the server works and the network reaches it. When a round trip
    takes too long, or the coroutine that waits for it is cancelled, the socket is shut down and the wait raises
    `OperationalError`. A cancel request is not sent, because one to a server that hangs would take seconds more.
    """

    round_trip_seconds: float = 30.0

    async def wait(self, gen: PQGen[RV], interval: float = 0.1, timeout: float | None = None) -> RV:  # noqa: ASYNC109 - psycopg's
        """Run one round trip. Raises `OperationalError` if it takes longer than `round_trip_seconds`."""
        watchdog = asyncio.get_running_loop().call_later(self.round_trip_seconds, self.hang_up)
        try:
            return await super().wait(gen, interval, timeout)
        finally:
            watchdog.cancel()

    async def cancel_safe(self, *, timeout: float = 30.0) -> None:  # noqa: ASYNC109 - psycopg's
        """End the current statement by closing the connection, without a cancel request."""
        self.hang_up()

    def hang_up(self) -> None:
        """Shut the socket down, so that a coroutine that waits for the server sees the end of the connection at once."""
        if not self.closed:
            with socket.socket(fileno=os.dup(self.pgconn.socket)) as duplicate:
                duplicate.shutdown(socket.SHUT_RDWR)


def connect_bounded(timeout_seconds: float) -> Callable[..., Awaitable[BoundedConnection]]:
    """Return a function that opens connections whose round trips take at most `timeout_seconds` and `ROUND_TRIP_GRACE_SECONDS`."""

    async def connect(*args: Any, **kwargs: Any) -> BoundedConnection:
        async with asyncio.timeout(timeout_seconds):
            connection = await BoundedConnection.connect(*args, **kwargs)
        await limit_round_trips(connection, timeout_seconds)
        return connection

    return connect


async def limit_round_trips(connection: psycopg.AsyncConnection[tuple[Any, ...]], timeout_seconds: float) -> None:
    """Limit the round trips of an open connection, such as one that a pool opened, in the same way."""
    assert isinstance(connection, BoundedConnection)
    connection.round_trip_seconds = timeout_seconds + ROUND_TRIP_GRACE_SECONDS


def sqlalchemy_url(name: str) -> URL:
    """Return a URL that names only the driver. The server is named by `conninfo` in `connect_args`.

    libpq then parses the setting itself, in all of its forms: sockets, several hosts, and `key=value` pairs. SQLAlchemy
    parses none of these.
    """
    # Without any query, SQLAlchemy would pass an empty conninfo of its own to the driver.
    return URL.create("postgresql+psycopg", query={"application_name": f"taskmill-{name}"})


def _options(timeout_seconds: float | None, *extra: str) -> str:
    options = ["-c timezone=UTC", "-c idle_in_transaction_session_timeout=60s", *extra]
    if timeout_seconds is not None:
        options.append(f"-c statement_timeout={int(timeout_seconds * 1000)}")
    return " ".join(options)


def _connect_timeout(timeout_seconds: float | None) -> int:
    """Return how long opening a connection may take. libpq accepts whole seconds only, and raises 1 to 2."""
    return (
        CONNECT_TIMEOUT_SECONDS if timeout_seconds is None else min(CONNECT_TIMEOUT_SECONDS, math.ceil(timeout_seconds))
    )


def _connect_arguments(name: str, timeout_seconds: float | None) -> dict[str, Any]:
    return {
        "application_name": f"taskmill-{name}",
        "connect_timeout": _connect_timeout(timeout_seconds),
        "options": _options(timeout_seconds),
        **TCP_KEEPALIVE,
    }


def make_engine(settings: Settings, name: str, *, pool_size: int = 5, timeout_seconds: float | None = 30) -> Engine:
    """Return an engine for sync code. `name` is shown in `pg_stat_activity`.

    Its errors do not contain the parameters of statements: errors are logged, and personal data must not be.
    """
    return create_engine(
        sqlalchemy_url(name),
        pool_size=pool_size,
        pool_pre_ping=True,
        pool_timeout=settings.database_timeout_seconds,
        hide_parameters=True,
        connect_args={"conninfo": settings.database_url, **_connect_arguments(name, timeout_seconds)},
    )


def make_async_engine(settings: Settings, name: str) -> AsyncEngine:
    """Return an engine for the API. A statement, and a wait for a connection, end after `database_timeout_seconds`.

    This also holds when the server hangs, because the connections are `BoundedConnection`s. Errors do not contain the
    parameters of statements, as with `make_engine`.
    """
    timeout_seconds = settings.database_timeout_seconds
    return create_async_engine(
        sqlalchemy_url(name),
        pool_size=settings.database_pool_size,
        max_overflow=0,
        pool_timeout=timeout_seconds,
        pool_pre_ping=True,
        hide_parameters=True,
        connect_args={
            "conninfo": settings.database_url,
            **_connect_arguments(name, timeout_seconds),
            "async_creator_fn": connect_bounded(timeout_seconds),
        },
    )


def hot_connection_arguments(
    name: str, *, durable: bool = True, timeout_seconds: float | None = None
) -> dict[str, Any]:
    """Return the arguments of `psycopg.connect` for the hot statements.

    The connection is in autocommit and prepares each statement at its first use. Unless `durable`, a commit returns before
    it is on disk (`synchronous_commit=off`). Use that only for writes which a crash may undo without harm, such as claims,
    marks of publication and progress, and never for a promise to a caller.
    """
    extra = [INDEX_SCAN_OPTIONS] if durable else [INDEX_SCAN_OPTIONS, "-c synchronous_commit=off"]
    return {
        "autocommit": True,
        "prepare_threshold": 0,
        "application_name": f"taskmill-{name}",
        "connect_timeout": _connect_timeout(timeout_seconds),
        "options": _options(timeout_seconds, *extra),
        **TCP_KEEPALIVE,
    }


def connect_hot(
    settings: Settings, name: str, *, durable: bool = True, timeout_seconds: float | None = 30
) -> psycopg.Connection[tuple[Any, ...]]:
    """Open a sync connection for the hot statements."""
    arguments = hot_connection_arguments(name, durable=durable, timeout_seconds=timeout_seconds)
    return psycopg.connect(settings.database_url, **arguments)


async def connect_hot_async(settings: Settings, name: str, *, durable: bool = True) -> BoundedConnection:
    """Open an async connection for the hot statements."""
    timeout_seconds = settings.database_timeout_seconds
    arguments = hot_connection_arguments(name, durable=durable, timeout_seconds=timeout_seconds)
    return await connect_bounded(timeout_seconds)(settings.database_url, **arguments)
