"""Reads the bodies of JSON requests, up to the number of bytes that the route accepts."""

from __future__ import annotations

from fastapi import Request
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope

from api.http.headers import find_header
from api.http.problems import Problem


def is_json(content_type: bytes | None) -> bool:
    """Return whether a Content-Type is that of JSON (RFC 8259, section 11), with any parameters."""
    return content_type is not None and content_type.partition(b";")[0].strip().lower() == b"application/json"


def require_json(request: Request) -> None:
    """Raise the problem `unsupported-media-type` unless the Content-Type is that of JSON."""
    content_type = find_header(request, "content-type")
    if not is_json(content_type.encode("latin-1") if content_type is not None else None):
        raise Problem("unsupported-media-type", "The body must be application/json.")


async def json_body(request: Request, limit_bytes: int) -> bytes:
    """Return the body of a JSON request.

    Raises the problems `unsupported-media-type` for another content type, and those of `read_body`.
    """
    require_json(request)
    return await read_body(request.scope, request.receive, limit_bytes)


async def optional_json_body(request: Request, limit_bytes: int) -> bytes:
    """Return the body of a JSON request as `json_body` does, or an empty object for a request without a body."""
    body = await read_body(request.scope, request.receive, limit_bytes)
    if not body.strip():
        return b"{}"
    require_json(request)
    return body


async def read_body(scope: Scope, receive: Receive, limit_bytes: int) -> bytes:
    """Return the whole body.

    Raises the problem `too-large` as soon as the body is known to be longer than the limit, and `ClientDisconnect`, also
    when `HttpProtocol` has refused the request because its body arrived too slowly.
    """
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit() and int(value) > limit_bytes:
            raise too_large(limit_bytes)
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        part: bytes = message.get("body", b"")
        size += len(part)
        if size > limit_bytes:
            raise too_large(limit_bytes)
        parts.append(part)
        if not message.get("more_body", False):
            return part if len(parts) == 1 else b"".join(parts)


def too_large(limit_bytes: int) -> Problem:
    """Return the problem for a body that is too long. The rest of it is not read, so the connection must be closed."""
    return Problem("too-large", f"The body may have at most {limit_bytes} bytes.", headers={"Connection": "close"})
