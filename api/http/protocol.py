"""HTTP/1.1 as uvicorn speaks it, save for how a connection ends, and for how what is no HTTP is answered."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final, TypedDict, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from api.http.joined_writes import JoinedWrites
from api.http.middleware import CONTENT_SECURITY_POLICY, SECURITY_HEADERS
from api.http.problems import Problem
from shared.identifiers import new_id

LINGER_SECONDS: Final = 1.0
"""How long an idle connection of a server that stops is kept: a request may be on its way, and is answered then."""


class ServerState(TypedDict):
    """The lifespan state of an application that this server runs (ASGI's `scope["state"]`)."""

    on_stopping: Sequence[Callable[[], None]]
    """Called when the server begins to stop, to end requests that only wait. Each may be called several times."""


class HttpProtocol(HttpToolsProtocol):
    """One connection."""

    stopping = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin, with writes that are joined."""
        super().connection_made(cast(asyncio.Transport, JoinedWrites(transport, self.loop)))

    def shutdown(self) -> None:
        """Begin to end, because the server stops: who waits for a task is answered now, and not in a minute.

        To close an idle connection at once would reset it under a request that was just sent, and its client could not
        know what became of that. So it is closed with the next answer, which says so, or when none was asked for.
        """
        self.stopping = True
        if self._is_idle():
            self.loop.call_later(LINGER_SECONDS, self._close_if_idle)
        else:
            self.cycle.keep_alive = False
        on_stopping: Sequence[Callable[[], None]] = self.app_state.get("on_stopping", ())
        for stop in on_stopping:
            stop()

    def on_headers_complete(self) -> None:
        """Begin a request; while the server stops it is the connection's last."""
        super().on_headers_complete()
        if self.stopping and self.cycle is not None:
            self.cycle.keep_alive = False

    def _is_idle(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _close_if_idle(self) -> None:
        if self._is_idle() and not self.transport.is_closing():
            self.transport.close()

    def send_400_response(self, msg: str) -> None:
        """Answer bytes that are no request with a problem document, and close the connection."""
        request_id = str(new_id())
        problem = Problem("bad-request", msg, headers={"Connection": "close"})
        body = problem.body(request_id)
        headers = [
            (b"x-request-id", request_id.encode()),
            (b"content-length", b"%d" % len(body)),
            *((name.lower().encode(), value.encode()) for name, value in problem.response_headers().items()),
            *SECURITY_HEADERS,
            CONTENT_SECURITY_POLICY,
        ]
        lines = [b"HTTP/1.1 400 Bad Request", *(name + b": " + value for name, value in headers)]
        self.transport.write(b"\r\n".join(lines) + b"\r\n\r\n" + body)
        self.transport.close()
