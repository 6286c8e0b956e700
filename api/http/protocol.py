"""HTTP/1.1 on one connection: uvicorn's protocol, with limits and deadlines for requests, and a graceful shutdown.

The differences from `HttpToolsProtocol`:

- Header fields have limits (431), and so has the request target (414), while they arrive.
- Header fields have a deadline (408), and so have bodies, whether a route reads them or not.
- A client that stops reading has a deadline, too: the kernel closes its connection.
- Only the handshake of a WebSocket upgrades a connection. An offer to upgrade to a protocol that is not served, such as h2c,
  is ignored, as RFC 9110, section 7.8, allows; so is a handshake that is incomplete, or sent before its connection is idle.
- Trailer fields of a chunked body are discarded, and do not become header fields (RFC 9110, section 6.5.1).
- Bytes that are not HTTP are answered with a problem document.
- A stopping server answers requests that were sent before it began to stop.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final, NotRequired, TypedDict, cast

import httptools
import structlog
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from api.http.joined_writes import JoinedWrites
from api.http.problems import Problem
from api.http.security_headers import CONTENT_SECURITY_POLICY, SECURITY_HEADERS
from shared.identifiers import new_id

MAX_HEADER_FIELDS: Final = 100
MAX_HEADER_BYTES: Final = 64 << 10
"""The most bytes of all header fields together: names, values, and the four characters around each."""
MAX_TARGET_BYTES: Final = 64 << 10
FIELD_OVERHEAD_BYTES: Final = len(b": \r\n")
REQUEST_LINE_BYTES: Final = 32
"""An upper bound for the bytes of a request line besides its target: the method and the version."""
MAX_CHUNK_OVERHEAD: Final = 16
"""How many bytes of chunk headers and trailers may come with each byte of a body, beyond `MAX_HEADER_BYTES`."""
MAX_DISCARDED_BYTES: Final = 4 << 20
MAX_HANDSHAKE_LINE_BYTES: Final = 8000
TCP_KEEPALIVE_IDLE_SECONDS: Final = 60
TCP_KEEPALIVE_INTERVAL_SECONDS: Final = 15
TCP_KEEPALIVE_PROBES: Final = 4
log = structlog.get_logger()


class ServerState(TypedDict):
    """The lifespan state of an application that this server runs (ASGI's `scope["state"]`)."""

    abort_connection: NotRequired[Callable[[], None]]
    """Closes the connection without sending what is buffered. Each connection adds its own."""
    on_stopping: Sequence[Callable[[], None]]
    """Functions that are called when the server begins to stop, to end waiting requests. Each may be called several times."""


class HttpProtocol(HttpToolsProtocol):
    """One connection."""

    header_seconds = 20.0
    """How long a client may take to send the request line and the header fields of a request."""
    body_seconds = 20.0
    body_bytes_per_second = 500
    """A body must be complete within `body_seconds`, plus one second for each `body_bytes_per_second` that have arrived.

    Apache's mod_reqtimeout has the same rule and defaults (`body=20,MinRate=500`). Time in which the server does not
    read, because the application is slow, does not count.
    """
    unread_seconds = 120.0
    """How long a client may leave what was sent to it unread before the kernel closes the connection (TCP_USER_TIMEOUT,
    RFC 5482), on Linux. It holds for a client that has vanished while it was sent something, too: keepalive waits while
    bytes are in flight."""
    linger_seconds = 1.0
    """How long a connection stays open after the server has begun to stop, because the client may just have sent a request;
    and after a refusal, because closing earlier would reset the connection before the client has read the answer."""

    stopping = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Set up the connection: joined writes, deadlines of the kernel, and one for the first request."""
        super().connection_made(cast(asyncio.Transport, JoinedWrites(transport, self.loop)))
        self.app_state = {**self.app_state, "abort_connection": partial(_reset, transport)}
        self._is_refused = False
        self._is_upgraded = False
        self._discarded_bytes = 0
        self._is_in_head = True
        self._has_begun = False
        self._heads_read = 0
        self._head_bytes = 0
        self._arriving_bytes = 0
        self._body_bytes = 0
        self._body_wire_bytes = 0
        self._body_started_at = 0.0
        self._deadline: asyncio.TimerHandle | None = None
        self._set_deadline(self.header_seconds, self._head_is_late)
        _set_tcp_deadlines(transport, self.unread_seconds)

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel the deadline of a connection that was closed."""
        super().connection_lost(exc)
        self._cancel_deadline()

    def shutdown(self) -> None:
        """Begin to close the connection because the server stops.

        Waiting requests are answered now. An idle connection is not closed at once: if a request was just sent, that would
        reset the connection, and the client could not know whether the request was processed. It is closed with the next
        answer, which has `Connection: close`, or after `linger_seconds`.
        """
        self.stopping = True
        if self._is_idle():
            self.loop.call_later(self.linger_seconds, self._close_if_idle)
        else:
            self.cycle.keep_alive = False
        for callback in self.app_state.get("on_stopping", ()):
            callback()

    # Bytes that arrive

    def data_received(self, data: bytes) -> None:
        """Parse bytes, and refuse the request if it exceeds a limit."""
        if self._is_refused:
            self._discard(data)
            return
        self._unset_keepalive_if_required()
        was_in_head, heads_read = self._is_in_head, self._heads_read
        self._arriving_bytes = len(data)
        if not was_in_head:
            self._body_wire_bytes += len(data)
        try:
            self._feed(data)
            if self._is_upgraded:
                self._cancel_deadline()
            elif not self._is_in_head:
                self._require_little_overhead()
                if self._deadline is None or heads_read != self._heads_read:
                    self._body_started_at = self.loop.time()
                    self._set_deadline(self.body_seconds, self._body_is_late)
            elif self._has_begun or heads_read == self._heads_read:
                # A part of a head, or empty lines before one.
                if was_in_head:
                    self._head_bytes += len(data)
                    self._require_small_partial_head()
                if self._deadline is None:
                    self._set_deadline(self.header_seconds, self._head_is_late)
            else:
                self._cancel_deadline()
        except Problem as problem:
            self._refuse(problem)

    def _feed(self, data: bytes) -> None:
        while data:
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as upgrade:
                if self._should_upgrade():
                    self._is_upgraded = True
                    self.handle_websocket_upgrade()
                    if rest := data[upgrade.args[0] :]:
                        cast(asyncio.Protocol, self.transport.get_protocol()).data_received(rest)
                    return
                self._ignore_upgrade()
                data = data[upgrade.args[0] :]
            except httptools.HttpParserError as error:
                if isinstance(error.__context__, Problem):
                    raise error.__context__ from None
                raise Problem("bad-request") from None
            else:
                return

    def _should_upgrade(self) -> bool:
        """Return whether the request is the handshake of a WebSocket (RFC 6455, section 4.2.1) that can be answered now."""
        if not super()._should_upgrade() or not self._is_idle() or self.stopping:
            return False
        names = [name for name, _ in self.headers]
        return (
            self.scope["method"] == "GET"
            and self.scope["http_version"] == "1.1"
            and names.count(b"sec-websocket-key") == names.count(b"sec-websocket-version") == 1
            and b"content-length" not in names
            and b"transfer-encoding" not in names
            # Limits of the package `websockets`, which would not answer a handshake beyond them.
            and len(self.url) <= MAX_HANDSHAKE_LINE_BYTES
            and self.url.isascii()
            and all(len(name) + len(value) <= MAX_HANDSHAKE_LINE_BYTES for name, value in self.headers)
        )

    def _ignore_upgrade(self) -> None:
        """Continue with a new parser, which gets the same framing of the body but not the offer to upgrade.

        llhttp treats everything after the header fields of a request with `Upgrade` as the new protocol, and has no option to
        change that: https://github.com/nodejs/llhttp#upgrade.
        """
        framing = [
            b"%b: %b\r\n" % (name, value)
            for name, value in self.scope["headers"]
            if name in {b"content-length", b"transfer-encoding"}
        ]
        self.parser = httptools.HttpRequestParser(_SecondParserCallbacks(self))
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        self.parser.feed_data(b"POST / HTTP/1.1\r\n%b\r\n" % b"".join(framing))

    # Callbacks of the parser

    def on_message_begin(self) -> None:
        """Record that a request has begun."""
        super().on_message_begin()
        self._has_begun = True

    def on_headers_complete(self) -> None:
        """Start the application for a request. While the server stops, this is the last request of the connection."""
        if self._head_bytes + self._arriving_bytes > MAX_HEADER_BYTES or len(self.headers) > MAX_HEADER_FIELDS:
            self._require_small_head()
        super().on_headers_complete()
        self._is_in_head = False
        self._heads_read += 1
        self._body_bytes = self._body_wire_bytes = 0
        if not (self.parser.should_upgrade() and self._should_upgrade()):
            # The parser reports trailer fields as header fields from here on.
            self.headers = []
        if self.stopping and self.cycle is not None:
            self.cycle.keep_alive = False

    def on_body(self, body: bytes) -> None:
        """Pass a part of the body to the application, and count its bytes."""
        self._body_bytes += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """End a request. The next bytes are the head of the next one."""
        if self.parser.should_upgrade() and not self._should_upgrade():
            # The parser treats the following bytes as another protocol, but they are the body: see `_ignore_upgrade`.
            return
        super().on_message_complete()
        if self._deadline is not None:
            self._cancel_deadline()
        self._is_in_head = True
        self._has_begun = False
        self._head_bytes = 0

    # Limits

    def _require_small_head(self) -> None:
        if len(self.url) > MAX_TARGET_BYTES:
            raise Problem("uri-too-long")
        size = sum(len(name) + len(value) + FIELD_OVERHEAD_BYTES for name, value in self.headers)
        if size > MAX_HEADER_BYTES or len(self.headers) > MAX_HEADER_FIELDS:
            raise Problem("headers-too-large")

    def _require_small_partial_head(self) -> None:
        target_bytes = len(self.url) if self._has_begun else 0
        if target_bytes > MAX_TARGET_BYTES:
            raise Problem("uri-too-long")
        if self._head_bytes > MAX_HEADER_BYTES + target_bytes + REQUEST_LINE_BYTES or (
            self._has_begun and len(self.headers) > MAX_HEADER_FIELDS
        ):
            raise Problem("headers-too-large")

    def _require_little_overhead(self) -> None:
        """Refuse a chunked body that consists of chunk extensions or trailer fields."""
        if self._body_wire_bytes > MAX_HEADER_BYTES + MAX_CHUNK_OVERHEAD * self._body_bytes:
            raise Problem("bad-request", "The chunks of the body carry too little data.")
        if len(self.headers) > MAX_HEADER_FIELDS:
            raise Problem("headers-too-large")

    def _set_deadline(self, seconds: float, when_late: Callable[[], None]) -> None:
        self._cancel_deadline()
        self._deadline = self.loop.call_later(seconds, when_late)

    def _cancel_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _head_is_late(self) -> None:
        self._deadline = None
        if not self._is_idle():
            # An earlier request is not answered yet, and the server may not even read at the moment.
            self._set_deadline(self.header_seconds, self._head_is_late)
        elif self._has_begun:
            self._refuse(Problem("request-timeout", "The header fields of the request arrived too slowly."))
        else:
            self.transport.close()

    def _body_is_late(self) -> None:
        self._deadline = None
        if self.flow.read_paused:
            self._body_started_at += self.body_seconds
        allowed_seconds = self.body_seconds + self._body_bytes / self.body_bytes_per_second
        left_seconds = self._body_started_at + allowed_seconds - self.loop.time()
        if left_seconds > 0:
            self._set_deadline(left_seconds, self._body_is_late)
        else:
            self._refuse(Problem("request-timeout", "The body of the request arrived too slowly."))

    # Refusals

    def send_400_response(self, msg: str) -> None:
        """Refuse bytes that are not an HTTP request, and close the connection."""
        self._refuse(Problem("bad-request", msg))

    def _refuse(self, problem: Problem) -> None:
        """Send a problem for a request that does not reach the application, and close the connection."""
        self._is_refused = True
        self._cancel_deadline()
        if self.transport.is_closing():
            return
        if self._is_idle():
            if self._is_in_head:
                self._send_refusal(problem)
            else:
                # The request is answered already, and the rest of its body is at fault.
                self.transport.close()
        elif self._is_in_head or self.pipeline:
            # Earlier requests are answered first; nothing that follows them can be read.
            self.cycle.keep_alive = False
        else:
            # The body of the request that is being answered.
            has_started = self.cycle.response_started
            self.cycle.disconnected = True
            self.cycle.message_event.set()
            if has_started:
                self.transport.close()
            else:
                self._send_refusal(problem)

    def _send_refusal(self, problem: Problem) -> None:
        request_id = str(new_id())
        client = self.client[0] if self.client else None
        log.info("request_refused", request_id=request_id, problem=problem.name, status=problem.status, client=client)
        body = problem.body(request_id)
        headers = [
            (b"x-request-id", request_id.encode()),
            (b"content-length", b"%d" % len(body)),
            (b"connection", b"close"),
            *((name.lower().encode(), value.encode()) for name, value in problem.response_headers().items()),
            *SECURITY_HEADERS,
            CONTENT_SECURITY_POLICY,
        ]
        lines = b"".join(b"%b: %b\r\n" % header for header in headers)
        self.transport.write(STATUS_LINE[problem.status] + lines + b"\r\n" + body)
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.loop.call_later(self.linger_seconds, self.transport.close)

    def _discard(self, data: bytes) -> None:
        """Discard the bytes that a refused client still sends, up to `MAX_DISCARDED_BYTES`, so that it can read the answer."""
        self._discarded_bytes += len(data)
        if self._discarded_bytes > MAX_DISCARDED_BYTES:
            self.flow.pause_reading()

    def _is_idle(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _close_if_idle(self) -> None:
        if self._is_idle() and not self.transport.is_closing():
            self.transport.close()


class _SecondParserCallbacks:
    """Callbacks of a second parser, which ignore the head of the request because the first parser has read it already."""

    def __init__(self, protocol: HttpProtocol) -> None:
        self._protocol = protocol
        self._is_first_head = True
        self.on_body = protocol.on_body
        self.on_message_complete = protocol.on_message_complete

    def on_message_begin(self) -> None:
        if not self._is_first_head:
            self._protocol.on_message_begin()

    def on_url(self, url: bytes) -> None:
        if not self._is_first_head:
            self._protocol.on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._is_first_head:
            self._protocol.on_header(name, value)

    def on_headers_complete(self) -> None:
        if not self._is_first_head:
            self._protocol.on_headers_complete()
        self._is_first_head = False


def _reset(transport: asyncio.Transport) -> None:
    """Close a connection at once, without what is buffered in this process and in the kernel."""
    connection: socket.socket | None = transport.get_extra_info("socket")
    if connection is not None and connection.family in {socket.AF_INET, socket.AF_INET6}:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()


def _set_tcp_deadlines(transport: asyncio.Transport, unread_seconds: float) -> None:
    """Set the deadlines after which the kernel closes a connection whose client has vanished or does not read."""
    connection: socket.socket | None = transport.get_extra_info("socket")
    if connection is None or connection.family not in {socket.AF_INET, socket.AF_INET6}:
        return
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (
        ("TCP_KEEPIDLE", TCP_KEEPALIVE_IDLE_SECONDS),
        ("TCP_KEEPINTVL", TCP_KEEPALIVE_INTERVAL_SECONDS),
        ("TCP_KEEPCNT", TCP_KEEPALIVE_PROBES),
        ("TCP_USER_TIMEOUT", int(unread_seconds * 1000)),
    ):
        # macOS lacks the first and the last.
        if hasattr(socket, option):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
