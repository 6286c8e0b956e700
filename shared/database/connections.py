"""Connections to Postgres: SQLAlchemy engines for ordinary work, bare psycopg connections for the hot statements.

The hot statements (`shared/queries/hot_tasks.py`) touch rows by index only. A plan made while the table was nearly empty
would scan it for ever after, so their connections take generic plans and know neither scans of a whole table nor joins
that read one.
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

INDEX_PLANS = (
    "-c plan_cache_mode=force_generic_plan -c jit=off "
    "-c enable_seqscan=off -c enable_hashjoin=off -c enable_mergejoin=off"
)
CONNECT_TIMEOUT_SECONDS = 5
TCP_KEEPALIVE = {
    "keepalives": 1,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    # What was sent and never confirmed is not kept alive: Linux would send it again for a quarter of an hour.
    "tcp_user_timeout": 25_000,
}


GRACE_SECONDS: Final = 0.5
"""How much longer than the server's own limit a round trip may take, so that a living server answers for itself."""


class BoundedConnection(psycopg.AsyncConnection[tuple[Any, ...]]):
    """A connection none of whose round trips takes longer than `round_trip_seconds`.

    The server ends a statement that takes too long; a server that hangs, or one beyond a broken network, ends nothing.
    Then, and when whoever waits is cancelled, the connection is hung up, and what waited raises `OperationalError`: to ask
    such a server to cancel would take seconds more.
    """

    round_trip_seconds: float = 30.0

    async def wait(self, gen: PQGen[RV], interval: float = 0.1, timeout: float | None = None) -> RV:  # noqa: ASYNC109 - psycopg's
        """Run one round trip."""
        watchdog = asyncio.get_running_loop().call_later(self.round_trip_seconds, self.hang_up)
        try:
            return await super().wait(gen, interval, timeout)
        finally:
            watchdog.cancel()

    async def cancel_safe(self, *, timeout: float = 30.0) -> None:  # noqa: ASYNC109 - psycopg's
        """End the statement under way, and the connection with it."""
        self.hang_up()

    def hang_up(self) -> None:
        """Close the connection at once, so that callers who wait for the server get an error."""
        if not self.closed:
            with socket.socket(fileno=os.dup(self.pgconn.socket)) as line:
                line.shutdown(socket.SHUT_RDWR)


def connect_bounded(timeout_seconds: float) -> Callable[..., Awaitable[BoundedConnection]]:
    """Return a function that opens connections whose round trips take little longer than the server's timeout."""

    async def connect(*args: Any, **kwargs: Any) -> BoundedConnection:
        async with asyncio.timeout(timeout_seconds):
            connection = await BoundedConnection.connect(*args, **kwargs)
        await bound(connection, timeout_seconds)
        return connection

    return connect


async def bound(connection: psycopg.AsyncConnection[tuple[Any, ...]], timeout_seconds: float) -> None:
    """Bound the round trips of a connection that a pool has opened."""
    assert isinstance(connection, BoundedConnection)
    connection.round_trip_seconds = timeout_seconds + GRACE_SECONDS


def sqlalchemy_url(name: str) -> URL:
    """Return a URL that names the driver only: the arguments of `psycopg.connect` name the server.

    So libpq reads its own form, with sockets, several hosts, and `key=value` pairs, none of which are SQLAlchemy's.
    """
    # With nothing at all in it, SQLAlchemy would give the driver an empty conninfo of its own.
    return URL.create("postgresql+psycopg", query={"application_name": f"taskmill-{name}"})


def _options(timeout_seconds: float | None, *extra: str) -> str:
    options = ["-c timezone=UTC", "-c idle_in_transaction_session_timeout=60s", *extra]
    if timeout_seconds is not None:
        options.append(f"-c statement_timeout={int(timeout_seconds * 1000)}")
    return " ".join(options)


def _connect_timeout(timeout_seconds: float | None) -> int:
    """Return how many seconds opening a connection may take: libpq takes whole seconds, at least two."""
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
    """Return an engine for the sync parts; `name` shows in `pg_stat_activity`.

    Its errors do not say what a statement was about: they are logged, and an address or a file's name must not be.
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
    """Return the API's engine. A statement, and a wait for a connection, end after `database_timeout_seconds`.

    So they do when the server hangs: its connections are `BoundedConnection`s. Of errors, as with `make_engine`.
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
    """Return the arguments of a psycopg connection for the hot statements.

    It is in autocommit, prepares each statement at once, and, unless `durable`, answers a commit before the disk has it:
    right for what a crash may undo without harm (claims, rings, progress), never for what someone was promised.
    """
    extra = [INDEX_PLANS] if durable else [INDEX_PLANS, "-c synchronous_commit=off"]
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
