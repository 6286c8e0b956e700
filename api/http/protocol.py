"""HTTP/1.1 as uvicorn speaks it, save for how a connection ends, and for how what is no HTTP is answered."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from api.following.waiters import Waiters
from api.http.joined_writes import JoinedWrites
from api.http.middleware import CONTENT_SECURITY_POLICY, SECURITY_HEADERS
from api.http.problems import Problem
from shared.identifiers import new_id

LINGER_SECONDS: Final = 1.0
"""How long an idle connection of a server that stops is kept: a request may be on its way, and is answered then."""


class HttpProtocol(HttpToolsProtocol):
    """One connection."""

    stopping = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin, with writes that are joined.

        The state of each request has `on_lost`, a list: what is in it is called when the client hangs up.
        """
        super().connection_made(cast(asyncio.Transport, JoinedWrites(transport, self.loop)))
        self._on_lost: list[Callable[[], None]] = []
        self.app_state = {**self.app_state, "on_lost": self._on_lost}

    def connection_lost(self, exc: Exception | None) -> None:
        """End, and tell whoever works for this connection."""
        super().connection_lost(exc)
        for hang_up in self._on_lost:
            hang_up()

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
        waiters: Waiters | None = self.app_state.get("waiters")
        if waiters is not None:
            waiters.let_everyone_go()

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
