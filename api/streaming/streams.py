"""What all streams share: how they are read, how many a caller may have, and how they are sent as server-sent events.

A stream has no state but the id of the last message that was sent, which a client sends again when it reconnects. So no event
is lost if a wake-up, the broker, the API or the connection is. Nothing is buffered for a client that reads slowly: it is
disconnected, and can resume.
"""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from typing import Final, NamedTuple
from uuid import UUID

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from api.auth.caller import Caller
from api.http.answers import PRIVATE_HEADERS
from api.http.headers import find_header
from api.http.problems import Problem
from api.streaming.messages import Message
from shared.settings import Settings

KEEP_ALIVE_COMMENT_SECONDS: Final = 15.0
"""How often a stream without events sends a comment, so that neither side nor a proxy closes the connection as idle."""
CHECK_KEY_SECONDS: Final = 15.0
"""How long a stream goes on after its key was revoked or has expired, at most, as long as no event is slow to be sent."""
SEND_SECONDS: Final = 30.0
"""How long a client may take to read what was sent, before it is disconnected."""
RETRY_AFTER_SECONDS: Final = 5
"""How long a caller that has too many streams is asked to wait."""
RECONNECT_MILLISECONDS: Final = 1000
"""How long a browser waits before it connects again."""

IsAllowed = Callable[[], Awaitable[bool]]
"""Returns whether the caller of a stream may still read it."""


class LastEventId(NamedTuple):
    """The id of the last message that a client has, if it has any, and where the request has it."""

    value: str | None
    pointer: str

    @classmethod
    def find(cls, request: Request, in_query: str | None) -> LastEventId:
        """Return the id in `Last-Event-ID`, or else the one in the query: a browser sends the header only if it reconnects."""
        header = find_header(request, "last-event-id")
        return cls(header, "header:Last-Event-ID") if header else cls(in_query, "query:last_event_id")


class Stream(ABC):
    """The messages of one task, of a batch, or of many tasks. Call `start`, `next` until it returns None, and `close`."""

    @abstractmethod
    async def start(self) -> None:
        """Begin to watch for changes."""

    @abstractmethod
    async def next(self, seconds: float) -> Sequence[Message] | None:
        """Return the next messages, none if there is none within `seconds`, or None if no message will follow."""

    @abstractmethod
    def close(self) -> None:
        """Stop watching."""


class OpenStreams:
    """Counts the open streams of each caller in this process."""

    def __init__(self, settings: Settings) -> None:
        self._most = settings.max_streams_per_caller
        self._open: Counter[UUID] = Counter()

    @contextmanager
    def count(self, caller: Caller) -> Iterator[None]:
        """Count a stream of a caller as open, until the block ends.

        Raises the problem `rate-limited` when the caller has as many streams in this process as it may. Checking and counting
        are one step: no other request of the caller can come between them.
        """
        if self._open[caller.owner_id] >= self._most:
            raise Problem(
                "rate-limited",
                f"The caller has {self._most} open streams, which is the most: close one first.",
                headers={"Retry-After": str(RETRY_AFTER_SECONDS)},
            )
        self._open[caller.owner_id] += 1
        try:
            yield
        finally:
            self._open[caller.owner_id] -= 1
            if not self._open[caller.owner_id]:
                del self._open[caller.owner_id]


class KeyCheck:
    """Checks from time to time whether a caller may still read its stream."""

    def __init__(self, is_still_allowed: IsAllowed) -> None:
        self._is_still_allowed = is_still_allowed
        self._due_at = time.monotonic() + CHECK_KEY_SECONDS

    async def passes(self) -> bool:
        """Return False if the key of the caller was revoked or has expired, or its rights have changed.

        It is read every `CHECK_KEY_SECONDS` only.
        """
        if time.monotonic() < self._due_at:
            return True
        self._due_at = time.monotonic() + CHECK_KEY_SECONDS
        return await self._is_still_allowed()


class EventStreamResponse(Response):
    """A stream as server-sent events, until it is over or either side ends the connection."""

    media_type = "text/event-stream"

    def __init__(self, stream: Stream, caller: Caller, open_streams: OpenStreams, is_still_allowed: IsAllowed) -> None:
        super().__init__(headers={**PRIVATE_HEADERS, "Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        # The length of a stream is unknown.
        del self.headers["content-length"]
        self._stream = stream
        self._caller = caller
        self._open_streams = open_streams
        self._is_still_allowed = is_still_allowed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the stream. Raises `ClientDisconnect` when the client is gone, or reads too slowly."""
        # Counted before the first byte is sent: a caller that has read something of a stream sees it counted.
        with self._open_streams.count(self._caller):
            is_head = bool(scope.get("state", {}).get("is_head"))
            try:
                if not is_head:
                    await self._stream.start()
                await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
                if not is_head:
                    sending = self._send_messages(_bounded(send, scope))
                    await run_until_disconnected(receive, "http.disconnect", sending)
            finally:
                self._stream.close()
            await send({"type": "http.response.body", "body": b""})

    async def _send_messages(self, send: Callable[[bytes], Awaitable[None]]) -> None:
        await send(b"retry: %d\n\n" % RECONNECT_MILLISECONDS)
        key_check = KeyCheck(self._is_still_allowed)
        while await key_check.passes():
            messages = await self._stream.next(KEEP_ALIVE_COMMENT_SECONDS)
            if messages is None:
                return
            await send(b"".join(message.as_server_sent_event() for message in messages) or b": keep-alive\n\n")


def _bounded(send: Send, scope: Scope) -> Callable[[bytes], Awaitable[None]]:
    async def send_part(body: bytes) -> None:
        await send_soon(send({"type": "http.response.body", "body": body, "more_body": True}), scope)

    return send_part


async def send_soon(sending: Awaitable[None], scope: Scope) -> None:
    """Send a part of a stream. If the client does not read it in time, end the connection and raise `ClientDisconnect`."""
    try:
        async with asyncio.timeout(SEND_SECONDS):
            await sending
    except TimeoutError:
        # Closing would keep the unsent bytes until the client reads them.
        if (abort_connection := scope["state"].get("abort_connection")) is not None:
            abort_connection()
        raise ClientDisconnect from None


async def run_until_disconnected(receive: Receive, disconnect: str, work: Coroutine[None, None, None]) -> None:
    """Await `work`. Raises `ClientDisconnect` as soon as the client disconnects."""
    task = asyncio.current_task()
    assert task is not None
    is_gone = False

    async def watch() -> None:
        nonlocal is_gone
        while (await receive())["type"] != disconnect:
            pass
        is_gone = True
        task.cancel()

    watching = asyncio.create_task(watch())
    try:
        await work
    except asyncio.CancelledError:
        if not is_gone:
            raise
        task.uncancel()
        raise ClientDisconnect from None
    finally:
        watching.cancel()
