"""Waiters: requests that wait until a task has changed or their time is over.

A wake-up, a message with the task's id on a Redis channel, wakes the waiters of a task. Because a message may be lost, one
slow poll of the database for all waiters finds changes as well. It also finds the tasks that the database changes by itself when
another task ends, such as the later steps of a workflow: it polls within a second after a wake-up, whichever task that names.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Final
from uuid import UUID

import redis.asyncio as redis
import structlog
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from starlette.requests import ClientDisconnect
from starlette.types import Receive

from api.auth.caller import Caller
from api.following.task_reader import TaskReader
from api.following.task_representation import TaskRow
from shared.outage_log import OutageLog
from shared.settings import Settings
from shared.tasks.wakeup_channel import WAKEUP_CHANNEL, decode_task_ids, encode_task_ids

SLOW_POLL_SECONDS: Final = 1.0
"""How often to poll while wake-ups arrive, or could not arrive because the Redis channel is not subscribed to."""
LISTENING_POLL_SECONDS: Final = 5.0
"""How often to poll while no wake-up arrives: a message may be missed."""
RECONNECT_SECONDS: Final = 1.0
log = structlog.get_logger()


class Waiter:
    """One waiting request, whose client may disconnect.

    Call `arm` before reading the task and `wait` after it, so that a change in between is not missed.
    """

    __slots__ = ("_disconnected", "_future", "_note_seen")

    def __init__(self, note_seen: Callable[[int], None]) -> None:
        self._future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._disconnected = False
        self._note_seen = note_seen

    def arm(self) -> None:
        """Start to record wake-ups for the next `wait`."""
        self._future = asyncio.get_running_loop().create_future()

    async def wait(self, seconds: float, seen_version: int) -> bool:
        """Wait until the task may have changed from the version that was seen; return False if the time is over first.

        Raises `ClientDisconnect` as soon as the client disconnects.
        """
        self._note_seen(seen_version)
        timer = asyncio.get_running_loop().call_later(seconds, self._settle, False)
        try:
            woken = self._disconnected or await self._future
        finally:
            timer.cancel()
        if self._disconnected:
            raise ClientDisconnect
        return woken

    def wake(self) -> None:
        """End the wait, so that the request reads its task again."""
        self._settle(True)

    async def watch(self, receive: Receive) -> None:
        """Wake the request when its client disconnects. ASGI reports that after the body was read."""
        while (await receive())["type"] != "http.disconnect":
            pass
        self._disconnected = True
        self.wake()

    def _settle(self, woken: bool) -> None:
        if not self._future.done():
            self._future.set_result(woken)


class Waiters:
    """The waiters of a process by the id of their task, and the version of each task that they have seen."""

    def __init__(self, settings: Settings, reader: TaskReader) -> None:
        self._settings = settings
        self._reader = reader
        self.on_wake_up: list[Callable[[], None]] = []
        """Functions that are called with each wake-up, whichever tasks it is about."""
        self._waiting: dict[UUID, set[Waiter]] = {}
        self._seen: dict[UUID, int] = {}
        self._background: list[asyncio.Task[None]] = []
        self._publisher: redis.Redis | None = None
        self._listening = False
        self._woken_since_poll = False
        self._outage = OutageLog("broker")
        self._stopping = False

    def start(self) -> None:
        """Start listening for wake-ups and polling the database."""
        self._background.append(asyncio.create_task(self._poll_slowly()))
        if self._settings.broker_is_redis:
            # Retries by the Redis client would delay answers by seconds while the broker is away.
            self._publisher = redis.Redis.from_url(
                self._settings.broker_url, socket_connect_timeout=0.2, socket_timeout=0.2, retry=Retry(NoBackoff(), 0)
            )
            self._background.append(asyncio.create_task(self._listen()))

    def stop_waiting(self) -> None:
        """End every wait now, and every later wait at once, because the server stops."""
        self._stopping = True
        for task_id in list(self._waiting):
            self.wake(task_id)

    async def close(self) -> None:
        """End every wait, and stop listening."""
        self.stop_waiting()
        for task in self._background:
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)
        if self._publisher is not None:
            await self._publisher.aclose()

    @property
    def stopping(self) -> bool:
        """Whether the server stops, so that waiting requests are answered with the current state of their task."""
        return self._stopping

    @contextmanager
    def watch(self, task_id: UUID, receive: Receive | None = None) -> Iterator[Waiter]:
        """Yield a waiter that is woken when the task may have changed, until the block ends.

        With `receive`, it is also woken when the client disconnects.
        """
        waiter = Waiter(partial(self._seen.__setitem__, task_id))
        watching = None if receive is None else asyncio.create_task(waiter.watch(receive))
        waiting = self._waiting.setdefault(task_id, set())
        waiting.add(waiter)
        try:
            yield waiter
        finally:
            if watching is not None:
                watching.cancel()
            waiting.discard(waiter)
            if not waiting:
                self._waiting.pop(task_id, None)
                self._seen.pop(task_id, None)

    async def wait(
        self, task_id: UUID, caller: Caller, seconds: float, is_settled: Callable[[TaskRow], bool], receive: Receive
    ) -> TaskRow | None:
        """Return the task as soon as `is_settled` accepts it, or as it is after `seconds`.

        Returns None when the task does not exist, or the caller may not see it. Raises `ClientDisconnect` as soon as
        the client disconnects.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        with self.watch(task_id, receive) as waiter:
            while True:
                waiter.arm()
                row = await self._reader.find(task_id, caller)
                left = deadline - loop.time()
                if row is None or is_settled(row) or left <= 0 or self._stopping:
                    return row
                version = row.version
                del row  # Thousands of requests may wait for a minute, and should not hold their rows in memory.
                await waiter.wait(left, version)

    async def wait_for_all(
        self, find_live: Callable[[], Awaitable[UUID | None]], caller: Caller, seconds: float, receive: Receive
    ) -> None:
        """Wait until `find_live` returns None, but not longer than `seconds`.

        `find_live` returns a task of a batch or of a workflow that is not done, and is called again when that one is done. Raises
        `ClientDisconnect` as soon as the client disconnects.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        while not self._stopping and (left := deadline - loop.time()) > 0:
            if (task_id := await find_live()) is None:
                return
            if await self.wait(task_id, caller, left, lambda row: row.done, receive) is None:
                return

    def wake(self, task_id: UUID) -> None:
        """Wake the waiters of a task in this process."""
        for waiter in self._waiting.get(task_id, ()):
            waiter.wake()

    async def wake_everywhere(self, task_ids: Sequence[UUID]) -> None:
        """Wake the waiters of tasks in every process.

        If the broker does not answer at once, the other processes find the change by their slow poll.
        """
        for task_id in task_ids:
            self.wake(task_id)
        if not task_ids:
            return
        self._call_on_wake_up()
        if self._publisher is None:
            return
        with contextlib.suppress(redis.RedisError, OSError, TimeoutError):
            await self._publisher.publish(WAKEUP_CHANNEL, encode_task_ids(task_ids))

    def _call_on_wake_up(self) -> None:
        self._woken_since_poll = True
        for callback in self.on_wake_up:
            callback()

    async def _listen(self) -> None:
        while True:
            client = redis.Redis.from_url(
                self._settings.broker_url, socket_connect_timeout=2, health_check_interval=5, socket_keepalive=True
            )
            try:
                async with client.pubsub() as channel:
                    await channel.subscribe(WAKEUP_CHANNEL)
                    self._listening = True
                    self._outage.end()
                    while True:
                        message = await channel.get_message(ignore_subscribe_messages=True, timeout=10)
                        if message is None:
                            continue
                        if self._waiting:
                            for task_id in decode_task_ids(message["data"]):
                                self.wake(task_id)
                        self._call_on_wake_up()
            except (redis.RedisError, OSError, TimeoutError) as error:
                self._outage.warn(error)
                await asyncio.sleep(RECONNECT_SECONDS)
            finally:
                self._listening = False
                with contextlib.suppress(Exception):
                    await client.aclose()

    async def _poll_slowly(self) -> None:
        polled_at = time.monotonic()
        while True:
            await asyncio.sleep(SLOW_POLL_SECONDS)
            is_quiet = self._listening and not self._woken_since_poll
            if is_quiet and time.monotonic() - polled_at < LISTENING_POLL_SECONDS:
                continue
            polled_at, self._woken_since_poll = time.monotonic(), False
            if self._seen:
                try:
                    for task_id in await self._reader.find_changed(self._seen):
                        self.wake(task_id)
                except Exception as error:
                    log.warning("slow_poll_failed", error=type(error).__name__)
