"""What surrounds every request, as plain ASGI: its id, its host, security headers, `HEAD`, `OPTIONS`, and the hot paths."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Sequence
from typing import Any, Final

import structlog
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.hot_paths import HotPaths
from api.http.body import too_large
from api.http.error_responses import from_exception
from api.http.problems import Problem
from api.http.security_headers import CONTENT_SECURITY_POLICY, DOCS_POLICY, SECURITY_HEADERS
from shared.identifiers import new_id
from shared.settings import Settings

SANE_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,128}\Z").match
LARGE_BODY_ROUTES: Final = ("/files", "/uploads")
"""They read their bodies themselves, and hold them to limits of their own."""
STOPPED_HEADERS: Final = {"Retry-After": "1", "Connection": "close"}
READING_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS"})
"""Those who only look are logged when something is wrong with us, or at the level `debug`."""
log = structlog.get_logger()


class Frame:
    """The outermost application."""

    def __init__(self, app: ASGIApp, hot_paths: HotPaths, settings: Settings, routes: Sequence[AllowedMethods]) -> None:
        self._app = app
        self._hot_paths = hot_paths
        hosts = frozenset(host.lower() for host in settings.allowed_hosts)
        self._hosts = None if "*" in hosts else hosts
        self._max_json_bytes = settings.max_json_bytes
        self._routes = routes
        self._logs_changes = settings.log_level in {"debug", "info"}
        self._logs_reads = settings.log_level == "debug"
        self.state = getattr(app, "state", None)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or hand on what is not HTTP."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id, host = None, b""
        for name, value in scope["headers"]:
            if name == b"x-request-id":
                request_id = value.decode("latin-1")
            elif name == b"host":
                host = value
        if request_id is None or not SANE_REQUEST_ID(request_id):
            request_id = str(new_id())
        scope.setdefault("state", {})["request_id"] = request_id
        method, path = scope["method"], scope["path"]
        policy = DOCS_POLICY if path == "/docs" else CONTENT_SECURITY_POLICY
        extra = [(b"x-request-id", request_id.encode()), *SECURITY_HEADERS]
        started = finished = False
        began = time.perf_counter()
        head = method == "HEAD"
        if head:
            scope = {**scope, "method": "GET"}
            scope["state"]["is_head"] = True

        async def send_framed(message: Message) -> None:
            nonlocal started, finished
            if message["type"] == "http.response.start":
                started = True
                headers = list(message["headers"])
                if self._logs_changes and (
                    self._logs_reads or method not in READING_METHODS or message["status"] >= 500
                ):
                    _log_request(request_id, method, path, message["status"], headers, began)
                if not any(name == b"content-security-policy" for name, _ in headers):
                    headers.append(policy)
                message = {**message, "headers": headers + extra}
            else:
                finished = not message.get("more_body", False)
                if head:
                    message = {"type": "http.response.body", "body": b"", "more_body": not finished}
            await send(message)

        try:
            if self._hosts is not None and _host_name(host) not in self._hosts:
                raise Problem("bad-request", "The Host is not one that this server answers to.")
            if self._hot_paths.serves(method, path):
                await self._hot_paths(scope, receive, send_framed)
            elif method == "OPTIONS":
                await self._answer_options(path, send_framed)
            else:
                await self._app(scope, self._bounded(scope, receive), send_framed)
        except ClientDisconnect:
            return
        except asyncio.CancelledError:
            # The server stops, and what it had begun took longer than its grace.
            if started:
                raise
            problem = Problem(
                "unavailable", "The server stops. Nothing was accepted: try again.", headers=STOPPED_HEADERS
            )
            await _send_problem(problem, request_id, send_framed)
        except Exception as error:
            if finished:
                # Starlette raises an unexpected error anew after its problem document was sent, and logged.
                return
            if started:
                raise
            await _send_problem(from_exception(error), request_id, send_framed)

    async def _answer_options(self, path: str, send: Send) -> None:
        allowed = allowed_methods(self._routes, path)
        if not allowed:
            raise Problem("not-found", "There is no such route.")
        await send({"type": "http.response.start", "status": 204, "headers": [(b"allow", ", ".join(allowed).encode())]})
        await send({"type": "http.response.body", "body": b""})

    def _bounded(self, scope: Scope, receive: Receive) -> Receive:
        """Hold a body to the limit of JSON bodies, whoever reads it; routes for large ones have limits of their own."""
        if scope["path"].startswith(LARGE_BODY_ROUTES) or scope["path"] == "/tasks/batch":
            return receive
        limit = self._max_json_bytes
        for name, value in scope["headers"]:
            if name == b"content-length" and value.isdigit() and int(value) > limit:
                raise too_large(limit)
        size = 0

        async def receive_bounded() -> Message:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size > limit:
                raise too_large(limit)
            return message

        return receive_bounded


AllowedMethods = tuple[re.Pattern[str], frozenset[str]]


def allowed_methods(routes: Sequence[AllowedMethods], path: str) -> list[str]:
    """Give the methods that a path answers to, sorted; none when there is no such path."""
    methods: set[str] = set()
    for pattern, route_methods in routes:
        if pattern.match(path):
            methods |= route_methods
    if "GET" in methods:
        methods.add("HEAD")
    return sorted(methods | {"OPTIONS"}) if methods else []


def _host_name(host: bytes) -> str:
    text = host.decode("latin-1").lower()
    return text[: text.index("]") + 1] if text.startswith("[") and "]" in text else text.partition(":")[0]


def _log_request(
    request_id: str, method: str, path: str, status: int, headers: list[tuple[bytes, bytes]], began: float
) -> None:
    """Log one answer: what was asked, never by whom or with what, and the task that it made."""
    location = next((value for name, value in headers if name == b"location"), b"")
    made = {"task_id": location[7:].decode()} if location.startswith(b"/tasks/") else {}
    milliseconds = round((time.perf_counter() - began) * 1000, 1)
    log.info("request", request_id=request_id, method=method, path=path[:200], status=status, ms=milliseconds, **made)


async def _send_problem(problem: Problem, request_id: str, send: Send) -> None:
    body = problem.body(request_id)
    headers: list[Any] = [
        (b"content-length", b"%d" % len(body)),
        *((name.lower().encode(), value.encode("latin-1")) for name, value in problem.response_headers().items()),
    ]
    await send({"type": "http.response.start", "status": problem.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
