"""Streams of server-sent events: the past events of a task from Postgres, and then its new events as they are stored.

A stream sends the stored events, waits until its task has changed, and sends the events that were stored since. Its only
state is the sequence number of the last event that it sent. So it loses no event if a wake-up, the broker or the connection
is lost. Many streams read from Postgres in one round trip.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Final, NamedTuple
from uuid import UUID

import orjson
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from api.auth.authentication import Caller
from api.batcher import Batcher, HotConnection
from api.following.task_reader import TaskReader
from api.following.waiters import Waiter, Waiters
from api.http.answers import PRIVATE_HEADERS, timestamp
from api.http.problems import Problem
from shared.queries.events import LIST_EVENTS_AFTER
from shared.settings import Settings
from shared.tasks.states import DONE_VALUES

KEEP_ALIVE_COMMENT_SECONDS: Final = 15.0
"""How often a stream without events sends a comment, so that neither side nor a proxy closes the connection as idle."""
CHECK_KEY_SECONDS: Final = 15.0
"""How long a stream goes on after its key was revoked or has expired, at most, as long as no event is slow to be sent."""
SEND_SECONDS: Final = 30.0
"""How long a client may take to read what was sent, before its stream is closed. The client can resume with `Last-Event-ID`."""
EVENTS_AT_ONCE: Final = 200
"""How many events of one task are read in one round trip, which bounds the memory of a stream."""
RETRY_AFTER_SECONDS: Final = 5
"""How long a caller that has too many streams is asked to wait."""
RECONNECT_MILLISECONDS: Final = 1000
"""How long a browser waits before it connects again."""


class TaskEvent(NamedTuple):
    """One entry of a task's history."""

    seq: int
    type: str
    at: datetime
    data: str
    """A JSON object."""

    def as_message(self) -> bytes:
        """Return the event as a server-sent event (HTML Living Standard, section 9.2)."""
        shown = {"at": timestamp(self.at), **orjson.loads(self.data)}
        # Only operators and admins may see which worker runs a task. They see it in the task.
        shown.pop("worker", None)
        data = orjson.dumps(shown)
        return b"id: %d\nevent: %s\ndata: %s\n\n" % (self.seq, self.type.encode(), data)

    @property
    def ends_history(self) -> bool:
        """Whether this event ended the task. A later retry may add events."""
        return self.type == "status" and orjson.loads(self.data)["status"] in DONE_VALUES


class _Wanted(NamedTuple):
    task_id: UUID
    after_seq: int


class EventReader:
    """Reads the history of tasks, for many streams in one round trip."""

    def __init__(self, settings: Settings) -> None:
        self._max_streams_per_caller = settings.max_streams_per_caller
        self._streams: Counter[UUID] = Counter()
        self._events: Batcher[_Wanted, list[TaskEvent]] = Batcher(settings, "events", self._read)

    async def list_after(self, task_id: UUID, seq: int) -> list[TaskEvent]:
        """Return the events of a task that follow a sequence number, oldest first: `EVENTS_AT_ONCE` at most."""
        return await self._events.submit(_Wanted(task_id, seq))

    @contextmanager
    def count_stream(self, caller: Caller) -> Iterator[None]:
        """Count a stream of a caller as open, until the block ends.

        Raises the problem `rate-limited` when the caller has as many streams in this process as it may. Checking and counting
        are one step: no other request of the caller can come between them.
        """
        if self._streams[caller.owner_id] >= self._max_streams_per_caller:
            raise Problem(
                "rate-limited",
                f"The caller has {self._max_streams_per_caller} open streams, which is the most: close one first.",
                headers={"Retry-After": str(RETRY_AFTER_SECONDS)},
            )
        self._streams[caller.owner_id] += 1
        try:
            yield
        finally:
            self._streams[caller.owner_id] -= 1
            if not self._streams[caller.owner_id]:
                del self._streams[caller.owner_id]

    async def close(self) -> None:
        """Finish the submitted reads, then close the connection."""
        await self._events.close()

    async def _read(self, connection: HotConnection, wanted: Sequence[_Wanted]) -> Sequence[list[TaskEvent]]:
        parameters = {
            "ids": "{" + ",".join(str(item.task_id) for item in wanted) + "}",
            "after": "{" + ",".join(str(item.after_seq) for item in wanted) + "}",
            "limit": EVENTS_AT_ONCE,
        }
        found: defaultdict[int, list[TaskEvent]] = defaultdict(list)
        for position, *event in await (await connection.execute(LIST_EVENTS_AFTER, parameters)).fetchall():
            found[position].append(TaskEvent._make(event))
        return [found[position] for position in range(1, len(wanted) + 1)]


class EventStreamResponse(Response):
    """The history of one task as server-sent events, until the task is done or either side ends the connection."""

    media_type = "text/event-stream"

    def __init__(
        self,
        task_id: UUID,
        caller: Caller,
        after_seq: int,
        reader: EventReader,
        tasks: TaskReader,
        waiters: Waiters,
        is_still_allowed: Callable[[], Awaitable[bool]],
    ) -> None:
        super().__init__(headers={**PRIVATE_HEADERS, "Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        # The length of a stream is unknown.
        del self.headers["content-length"]
        self._task_id = task_id
        self._caller = caller
        self._seq = after_seq
        self._reader = reader
        self._tasks = tasks
        self._waiters = waiters
        self._is_still_allowed = is_still_allowed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the stream. Raises `ClientDisconnect` when the client is gone, or reads too slowly."""
        # Counted before the first byte is sent: a caller that has read something of a stream sees it counted.
        with self._reader.count_stream(self._caller), self._waiters.watch(self._task_id, receive) as waiter:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            if not scope.get("state", {}).get("is_head"):
                await self._send_events(send, waiter)
            await send({"type": "http.response.body", "body": b""})

    async def _send_events(self, send: Send, waiter: Waiter) -> None:
        await _send_soon(send, b"retry: %d\n\n" % RECONNECT_MILLISECONDS)
        check_key_at = time.monotonic() + CHECK_KEY_SECONDS
        while True:
            if time.monotonic() >= check_key_at:
                if not await self._is_still_allowed():
                    return
                check_key_at = time.monotonic() + CHECK_KEY_SECONDS
            # Armed before the events are read, so that a change in between is not missed.
            waiter.arm()
            events = await self._reader.list_after(self._task_id, self._seq)
            if events:
                self._seq = events[-1].seq
                await _send_soon(send, b"".join(event.as_message() for event in events))
                if len(events) == EVENTS_AT_ONCE:
                    continue
            if self._waiters.stopping or await self._is_over(events):
                return
            if not await waiter.wait(KEEP_ALIVE_COMMENT_SECONDS, self._seq):
                await _send_soon(send, b": keep-alive\n\n")

    async def _is_over(self, events: Sequence[TaskEvent]) -> bool:
        """Return whether no event will follow, because the task is done or was deleted."""
        if events:
            return events[-1].ends_history
        task = await self._tasks.find_version(self._task_id, self._caller)
        return task is None or (task.done and task.version <= self._seq)


async def _send_soon(send: Send, body: bytes) -> None:
    """Send a part of the stream. Raises `ClientDisconnect` when the client does not read it in time."""
    try:
        async with asyncio.timeout(SEND_SECONDS):
            await send({"type": "http.response.body", "body": body, "more_body": True})
    except TimeoutError:
        raise ClientDisconnect from None
