"""HTTP/1.1 as uvicorn speaks it, save for how a connection ends, and for how what is no HTTP is answered."""

from __future__ import annotations

import asyncio
from typing import cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from api.error_responses import Problem
from api.joined_writes import JoinedWrites
from api.middleware import CONTENT_SECURITY_POLICY, SECURITY_HEADERS
from api.wakeups import Waiters
from shared.identifiers import new_id


class HttpProtocol(HttpToolsProtocol):
    """One connection."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin, with writes that are joined."""
        super().connection_made(cast(asyncio.Transport, JoinedWrites(transport, self.loop)))

    def shutdown(self) -> None:
        """Begin to end, because the server stops: who waits for a task is answered now, and not in a minute."""
        super().shutdown()
        waiters: Waiters | None = self.app_state.get("waiters")
        if waiters is not None:
            waiters.let_everyone_go()

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
