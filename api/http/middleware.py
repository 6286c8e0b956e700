"""ASGI middleware for every request.

Frame           request id, `Host`, `Content-Encoding`, security headers, `HEAD`, `OPTIONS`, and errors that nothing else handled
BodyLimit       limits the size of bodies, except on routes that have a limit of their own
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Collection, Sequence
from typing import Final, Protocol

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.http.body import too_large
from api.http.error_responses import from_exception
from api.http.headers import RawHeaders
from api.http.problems import Problem
from api.http.security_headers import CONTENT_SECURITY_POLICY, SECURITY_HEADERS
from shared.identifiers import new_id

SANE_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,128}\Z").match
VALID_HOST: Final = re.compile(
    rb"(?:[A-Za-z0-9._~!$&'()*+,;=%-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{0,5})?\Z"  # RFC 9110, section 7.2
).match
LARGE_BODY_ROUTES: Final = ("/files", "/uploads")
"""The first segments of routes that read large bodies, each with a limit of its own."""
BATCH_ROUTES: Final = frozenset({"/tasks/batch", "/workflows"})
"""Routes that read many tasks, with the limit `max_batch_bytes`."""
STOPPED_HEADERS: Final = {"Retry-After": "1", "Connection": "close"}

AllowedMethods = tuple[re.Pattern[str], frozenset[str]]
"""The pattern of a route's path, and its methods."""


class RequestLog(Protocol):
    """The log to which `Frame` writes answers."""

    def write(self, scope: Scope, status: int, headers: RawHeaders, seconds: float) -> None:
        """Log one answer; `seconds` is how long it took until its first byte."""


class Frame:
    """The outermost application.

    `allowed_hosts` are the host names that requests may be for, in lower case; None for any. `routes` are used to answer
    `OPTIONS`.
    """

    def __init__(
        self, app: ASGIApp, *, allowed_hosts: Collection[str] | None, routes: Sequence[AllowedMethods], log: RequestLog
    ) -> None:
        self._app = app
        self._hosts = allowed_hosts
        self._routes = routes
        self._log = log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the application for one request. Other scopes than HTTP and WebSockets are passed on unchanged."""
        if scope["type"] == "websocket":
            await self._accept_or_refuse(scope, receive, send)
            return
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started_at = time.perf_counter()
        request_id, hosts, encoding, transfer_codings, has_body = _read_headers(scope["headers"])
        if request_id is None or not SANE_REQUEST_ID(request_id):
            request_id = str(new_id())
        scope.setdefault("state", {})["request_id"] = request_id
        method, path = scope["method"], scope["path"]
        has_started = has_ended = False
        is_head = method == "HEAD"
        if is_head:
            scope = {**scope, "method": "GET"}
            scope["state"]["is_head"] = True

        async def send_framed(message: Message) -> None:
            nonlocal has_started, has_ended
            if message["type"] == "http.response.start":
                has_started = True
                headers = list(message["headers"])
                self._log.write(scope, message["status"], headers, time.perf_counter() - started_at)
                if not any(name == b"content-security-policy" for name, _ in headers):
                    headers.append(CONTENT_SECURITY_POLICY)
                headers.append((b"x-request-id", request_id.encode()))
                message = {**message, "headers": headers + SECURITY_HEADERS}
            else:
                has_ended = not message.get("more_body", False)
                if is_head:
                    message = {"type": "http.response.body", "body": b"", "more_body": not has_ended}
            await send(message)

        try:
            self._require_host(hosts)
            if transfer_codings is not None:
                _require_chunked_alone(transfer_codings)
            if has_body and encoding is not None:
                _require_identity(encoding)
            if method == "OPTIONS":
                await self._answer_options(path, send_framed)
            else:
                await self._app(scope, receive, send_framed)
        except ClientDisconnect:
            return
        except asyncio.CancelledError:
            # The server is stopping, and the request took longer than `timeout_graceful_shutdown`.
            if has_started:
                raise
            problem = Problem(
                "unavailable", "The server is stopping. Nothing was stored: try again.", headers=STOPPED_HEADERS
            )
            await _send_problem(problem, request_id, send_framed)
        except Exception as error:
            if has_ended:
                # Starlette raises an unexpected error again after it has sent and logged its problem document.
                return
            if has_started:
                raise
            await _send_problem(from_exception(error), request_id, send_framed)

    async def _accept_or_refuse(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the application for one WebSocket. A handshake that it refuses is answered like a request."""
        started_at = time.perf_counter()
        request_id, hosts, *_ = _read_headers(scope["headers"])
        if request_id is None or not SANE_REQUEST_ID(request_id):
            request_id = str(new_id())
        scope.setdefault("state", {})["request_id"] = request_id
        is_answered = False

        async def send_framed(message: Message) -> None:
            nonlocal is_answered
            if message["type"] == "websocket.close" and not is_answered:
                # Without a route, Starlette closes the socket before it is accepted.
                raise Problem("not-found", "There is no such route.")
            if message["type"] in {"websocket.accept", "websocket.http.response.start"}:
                is_answered = True
                headers = [*message.get("headers", ()), (b"x-request-id", request_id.encode())]
                if message["type"] == "websocket.http.response.start":
                    headers += [CONTENT_SECURITY_POLICY, *SECURITY_HEADERS]
                message = {**message, "headers": headers}
                status = message.get("status", 101)
                self._log.write({**scope, "method": "GET"}, status, headers, time.perf_counter() - started_at)
            await send(message)

        async def send_as_http(message: Message) -> None:
            await send_framed({**message, "type": f"websocket.{message['type']}"})

        try:
            self._require_host(hosts)
            await self._app(scope, receive, send_framed)
        except ClientDisconnect:
            return
        except Exception as error:
            problem = from_exception(error)
            if is_answered:
                await send({"type": "websocket.close", "code": 1011})
            else:
                await _send_problem(problem, request_id, send_as_http)

    def _require_host(self, hosts: Sequence[bytes]) -> None:
        """Raise a problem unless there is one valid `Host` (RFC 9112, section 3.2), and it is one of the allowed ones."""
        if len(hosts) != 1:
            raise Problem(
                "bad-request", "The request must have the header Host exactly once.", headers={"Connection": "close"}
            )
        if not VALID_HOST(hosts[0]):
            raise Problem("bad-request", "The header Host is not a host name.", headers={"Connection": "close"})
        if self._hosts is not None and _host_name(hosts[0]) not in self._hosts:
            raise Problem("bad-request", "This server does not answer to the name in the header Host.")

    async def _answer_options(self, path: str, send: Send) -> None:
        allowed = allowed_methods(self._routes, path)
        if not allowed:
            raise Problem("not-found", "There is no such route.")
        await send({"type": "http.response.start", "status": 204, "headers": [(b"allow", ", ".join(allowed).encode())]})
        await send({"type": "http.response.body", "body": b""})


class BodyLimit:
    """Limits bodies to `max_bytes`, except on routes that have a limit of their own."""

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self._app = app
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the application for one request. Raises the problem `too-large`."""
        if scope["type"] != "http" or scope["path"].startswith(LARGE_BODY_ROUTES) or scope["path"] in BATCH_ROUTES:
            await self._app(scope, receive, send)
            return
        for name, value in scope["headers"]:
            if name == b"content-length" and value.isdigit() and int(value) > self._max_bytes:
                raise too_large(self._max_bytes)
        size = 0

        async def receive_limited() -> Message:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size > self._max_bytes:
                raise too_large(self._max_bytes)
            return message

        await self._app(scope, receive_limited, send)


def allowed_methods(routes: Sequence[AllowedMethods], path: str) -> list[str]:
    """Return the methods of a path, sorted; an empty list when there is no such path."""
    methods: set[str] = set()
    for pattern, route_methods in routes:
        if pattern.match(path):
            methods |= route_methods
    if "GET" in methods:
        methods.add("HEAD")
    return sorted(methods | {"OPTIONS"}) if methods else []


def _read_headers(headers: RawHeaders) -> tuple[str | None, list[bytes], bytes | None, bytes | None, bool]:
    """Return the request id, every `Host`, the content and transfer codings if any, and whether there is a body."""
    request_id: str | None = None
    hosts: list[bytes] = []
    encoding: bytes | None = None
    transfer_codings: bytes | None = None
    has_body = False
    for name, value in headers:
        if name == b"host":
            hosts.append(value)
        elif name == b"x-request-id":
            request_id = value.decode("latin-1")
        elif name == b"content-encoding":
            encoding = value if encoding is None else encoding + b"," + value
        elif name == b"transfer-encoding":
            transfer_codings = value if transfer_codings is None else transfer_codings + b"," + value
            has_body = True
        elif name == b"content-length" and value.strip(b"0") != b"":
            has_body = True
    return request_id, hosts, encoding, transfer_codings, has_body


def _require_chunked_alone(codings: bytes) -> None:
    """Raise a problem for a transfer coding other than `chunked`, which the server cannot decode (RFC 9112, section 6.1)."""
    if {coding.strip().lower() for coding in codings.split(b",")} - {b"", b"chunked"}:
        raise Problem("not-implemented", headers={"Connection": "close"})


def _require_identity(encoding: bytes) -> None:
    codings = {coding.strip().lower() for coding in encoding.split(b",")}
    if codings - {b"", b"identity"}:
        raise Problem(
            "unsupported-media-type",
            "The body has a Content-Encoding that is not supported. Send it without compression.",
            headers={"Accept-Encoding": "identity"},
        )


def _host_name(host: bytes) -> str:
    text = host.decode("latin-1").lower()
    return text[: text.index("]") + 1] if text.startswith("[") and "]" in text else text.partition(":")[0]


async def _send_problem(problem: Problem, request_id: str, send: Send) -> None:
    body = problem.body(request_id)
    headers = [
        (b"content-length", b"%d" % len(body)),
        *((name.lower().encode(), value.encode("latin-1")) for name, value in problem.response_headers().items()),
    ]
    await send({"type": "http.response.start", "status": problem.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
