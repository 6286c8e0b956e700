"""Sends items to the database in batches, without a timer: items that arrive during one round trip are sent by the next one."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, Generic, TypeVar

import psycopg
import structlog
from psycopg_pool import AsyncConnectionPool

from shared.database.connections import connect_hot_async
from shared.settings import Settings

Item = TypeVar("Item")
Answer = TypeVar("Answer")
HotConnection = psycopg.AsyncConnection[tuple[Any, ...]]
HotPool = AsyncConnectionPool[HotConnection]
SLOW_SHARE: Final = 0.5
"""A flush that fails after more than this share of the timeout means that the database does not answer. After an earlier
failure, the database refused the flush and the next flush is tried."""
log = structlog.get_logger()


class Batcher(Generic[Item, Answer]):
    """Collects items and passes them to `flush`, up to `limit` at a time, on a connection of its own.

    - `flush` returns one answer for each item, in their order. An answer that is an exception is raised by its future.
    - If `flush` raises, all its items fail with that exception.
    - If it takes longer than the database timeout, its items fail with `TimeoutError` and the connection is closed. The
      items that were collected in the meantime fail too, because the database would not answer them either.
    """

    def __init__(
        self,
        settings: Settings,
        name: str,
        flush: Callable[[HotConnection, Sequence[Item]], Awaitable[Sequence[Answer | Exception]]],
        limit: int = 256,
    ) -> None:
        self._settings = settings
        self._name = name
        self._flush = flush
        self._limit = limit
        self._waiting: list[tuple[Item, asyncio.Future[Answer]]] = []
        self._runner: asyncio.Task[None] | None = None
        self._connection: HotConnection | None = None

    def submit(self, item: Item) -> asyncio.Future[Answer]:
        """Return the future of the item's answer. The item is flushed with those that were submitted by then."""
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future))
        if self._runner is None:
            self._runner = asyncio.create_task(self._run())
        return future

    async def close(self) -> None:
        """Flush the collected items, then close the connection."""
        if self._runner is not None:
            await asyncio.wait([self._runner], timeout=self._settings.database_timeout_seconds)
        if self._connection is not None:
            await self._connection.close()

    async def _run(self) -> None:
        try:
            await asyncio.sleep(0)  # Items that are submitted in the same turn of the event loop are flushed together.
            while self._waiting:
                batch, self._waiting = self._waiting[: self._limit], self._waiting[self._limit :]
                batch = [(item, future) for item, future in batch if not future.done()]
                if batch:
                    await self._answer(batch)
        finally:
            self._runner = None

    async def _answer(self, batch: Sequence[tuple[Item, asyncio.Future[Answer]]]) -> None:
        answers: Sequence[Answer | Exception]
        began = time.monotonic()
        try:
            async with asyncio.timeout(self._settings.database_timeout_seconds):
                connection = await self._connected()
                answers = await self._flush(connection, [item for item, _ in batch])
        except Exception as error:
            if not isinstance(error, psycopg.Error) or (self._connection is not None and self._connection.closed):
                await self._drop_connection()
            if time.monotonic() - began > self._settings.database_timeout_seconds * SLOW_SHARE:
                batch, self._waiting = [*batch, *self._waiting], []
            answers = [error] * len(batch)
        for (_, future), answer in zip(batch, answers, strict=True):
            if future.done():
                continue
            if isinstance(answer, Exception):
                future.set_exception(answer)
            else:
                future.set_result(answer)

    async def _connected(self) -> HotConnection:
        if self._connection is None or self._connection.closed:
            self._connection = await connect_hot_async(self._settings, f"api-{self._name}")
        return self._connection

    async def _drop_connection(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.pgconn.finish()
        log.warning("connection_dropped", connection=self._name)
