"""Reads tasks for those who poll, and holds those who wait until there is something to see.

Who waits is woken by ids on a Redis channel, and, because that may be silent, by a slow poll: one statement for all.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Final
from uuid import UUID

import redis.asyncio as redis
import structlog
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from starlette.requests import ClientDisconnect

from api.batcher import Batcher, HotConnection
from api.following.task_representation import TaskRow
from shared.queries import hot_tasks
from shared.settings import Settings
from shared.tasks.wakeup_channel import WAKEUP_CHANNEL, read_ids

SLOW_POLL_SECONDS: Final = 1.0
LISTENING_POLL_SECONDS: Final = 5.0
"""How often to look while wake-ups are heard: one may be missed even then."""
RECONNECT_SECONDS: Final = 1.0
log = structlog.get_logger()

Version = tuple[UUID, int, str, UUID]
"""What `hot_tasks.READ_VERSIONS` gives: id, version, status, organization."""


class TaskReader:
    """Reads tasks, many in one round trip."""

    def __init__(self, settings: Settings) -> None:
        self._rows: Batcher[UUID, TaskRow | None] = Batcher(settings, "read", self._read_rows)
        self._versions: Batcher[UUID, Version | None] = Batcher(settings, "versions", self._read_versions)
        self._changes: Batcher[Mapping[UUID, int], list[UUID]] = Batcher(settings, "changes", self._read_changes)

    async def find(self, task_id: UUID) -> TaskRow | None:
        """Give a task, if there is one."""
        return await self._rows.submit(task_id)

    async def find_many(self, task_ids: Sequence[UUID]) -> list[TaskRow]:
        """Give those tasks that there are, in the order of their ids."""
        rows = await asyncio.gather(*(self._rows.submit(task_id) for task_id in task_ids))
        return [row for row in rows if row is not None]

    async def find_version(self, task_id: UUID) -> Version | None:
        """Give what is needed to answer 304."""
        return await self._versions.submit(task_id)

    async def find_changed(self, seen: Mapping[UUID, int]) -> list[UUID]:
        """Give the tasks whose version is not the one seen, and those that are gone, of any number."""
        return await self._changes.submit(dict(seen))

    async def close(self) -> None:
        """Answer what was asked, then close."""
        await self._rows.close()
        await self._versions.close()
        await self._changes.close()

    async def _read_rows(self, connection: HotConnection, ids: Sequence[UUID]) -> Sequence[TaskRow | None]:
        cursor = await connection.execute(hot_tasks.READ, {"ids": _array(ids)}, binary=True)
        rows = {row[0]: TaskRow._make(row) for row in await cursor.fetchall()}
        return [rows.get(task_id) for task_id in ids]

    async def _read_versions(self, connection: HotConnection, ids: Sequence[UUID]) -> Sequence[Version | None]:
        cursor = await connection.execute(hot_tasks.READ_VERSIONS, {"ids": _array(ids)}, binary=True)
        rows: dict[UUID, Version] = {row[0]: row for row in await cursor.fetchall()}
        return [rows.get(task_id) for task_id in ids]

    async def _read_changes(
        self, connection: HotConnection, seen: Sequence[Mapping[UUID, int]]
    ) -> Sequence[list[UUID]]:
        answers = []
        for versions in seen:
            parameters = {"ids": _array(list(versions)), "versions": list(versions.values())}
            cursor = await connection.execute(hot_tasks.READ_CHANGES, parameters, binary=True)
            answers.append([row[0] for row in await cursor.fetchall()])
        return answers


def _array(ids: Sequence[UUID]) -> str:
    return "{" + ",".join(map(str, dict.fromkeys(ids))) + "}"


class Waiter:
    """One who waits, and may hang up."""

    __slots__ = ("future", "hung_up")

    def __init__(self) -> None:
        self.future: asyncio.Future[None] | None = None
        self.hung_up = False

    def wake(self) -> None:
        """Let it look again."""
        if self.future is not None and not self.future.done():
            self.future.set_result(None)

    def hang_up(self) -> None:
        """Let it wait no longer, for nobody hears the answer."""
        self.hung_up = True
        self.wake()


class Waiters:
    """Those who wait for a task, by its id, each with the version that they have seen."""

    def __init__(self, settings: Settings, reader: TaskReader) -> None:
        self._settings = settings
        self._reader = reader
        self._waiting: dict[UUID, set[Waiter]] = {}
        self._seen: dict[UUID, int] = {}
        self._background: list[asyncio.Task[None]] = []
        self._publisher: redis.Redis | None = None
        self._listening = False
        self._closing = False

    def start(self) -> None:
        """Begin to listen and to poll."""
        self._background.append(asyncio.create_task(self._poll_slowly()))
        if self._settings.broker_is_redis:
            # Without the client's own retries, which would hold a caller up for seconds when the broker is away.
            self._publisher = redis.Redis.from_url(
                self._settings.broker_url, socket_connect_timeout=0.2, socket_timeout=0.2, retry=Retry(NoBackoff(), 0)
            )
            self._background.append(asyncio.create_task(self._listen()))

    def let_everyone_go(self) -> None:
        """Answer those who wait, and from now on those who would, with what there is to see."""
        self._closing = True
        for task_id in list(self._waiting):
            self.wake(task_id)

    async def close(self) -> None:
        """Let everyone go, and stop listening."""
        self.let_everyone_go()
        for task in self._background:
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)
        if self._publisher is not None:
            await self._publisher.aclose()

    async def wait(
        self, waiter: Waiter, task_id: UUID, seconds: float, is_settled: Callable[[TaskRow], bool]
    ) -> TaskRow | None:
        """Give the task as soon as it is settled, or as it is after `seconds`; None when there is none.

        Raises `ClientDisconnect` as soon as the waiter has hung up.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        waiting = self._waiting.setdefault(task_id, set())
        waiting.add(waiter)
        try:
            while True:
                # From here on it may be woken: what changes while the task is read is not missed.
                waiter.future = loop.create_future()
                row = await self._reader.find(task_id)
                left = deadline - loop.time()
                if row is None or is_settled(row) or left <= 0 or self._closing:
                    return row
                self._seen[task_id] = row.version
                del row  # thousands may wait for a minute
                timer = loop.call_later(left, waiter.wake)
                try:
                    if not waiter.hung_up:
                        await waiter.future
                finally:
                    timer.cancel()
                if waiter.hung_up:
                    raise ClientDisconnect
        finally:
            waiting.discard(waiter)
            if not waiting:
                self._waiting.pop(task_id, None)
                self._seen.pop(task_id, None)

    def wake(self, task_id: UUID) -> None:
        """Let those who wait for a task look again."""
        for waiter in self._waiting.get(task_id, ()):
            waiter.wake()

    async def publish(self, message: bytes) -> None:
        """Tell the other processes of a change; silently not, when the broker does not take it at once."""
        if self._publisher is None:
            return
        with contextlib.suppress(redis.RedisError, OSError, TimeoutError):
            await self._publisher.publish(WAKEUP_CHANNEL, message)

    async def _listen(self) -> None:
        while True:
            client = redis.Redis.from_url(
                self._settings.broker_url, socket_connect_timeout=2, health_check_interval=5, socket_keepalive=True
            )
            try:
                async with client.pubsub() as channel:
                    await channel.subscribe(WAKEUP_CHANNEL)
                    self._listening = True
                    while True:
                        message = await channel.get_message(ignore_subscribe_messages=True, timeout=10)
                        if message is not None and self._waiting:
                            for task_id in read_ids(message["data"]):
                                self.wake(task_id)
            except (redis.RedisError, OSError, TimeoutError):
                await asyncio.sleep(RECONNECT_SECONDS)
            finally:
                self._listening = False
                with contextlib.suppress(Exception):
                    await client.aclose()

    async def _poll_slowly(self) -> None:
        while True:
            await asyncio.sleep(LISTENING_POLL_SECONDS if self._listening else SLOW_POLL_SECONDS)
            if self._seen:
                try:
                    for task_id in await self._reader.find_changed(self._seen):
                        self.wake(task_id)
                except Exception as error:
                    log.warning("slow_poll_failed", error=type(error).__name__)
