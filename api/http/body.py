"""Reads a JSON request's body, and not a byte more than the route takes."""

from __future__ import annotations

from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope

from api.http.error_responses import Problem


def is_json(content_type: bytes | None) -> bool:
    """Whether a Content-Type is that of JSON (RFC 8259, 11), with whatever parameters."""
    return content_type is not None and content_type.partition(b";")[0].strip().lower() == b"application/json"


async def read_body(scope: Scope, receive: Receive, limit_bytes: int) -> bytes:
    """Give the whole body. Raises the problem `too-large` as soon as it is known to be longer than the limit."""
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit() and int(value) > limit_bytes:
            raise too_large(limit_bytes)
    message = await receive()
    if message["type"] == "http.disconnect":
        raise ClientDisconnect
    body: bytes = message.get("body", b"")
    if not message.get("more_body"):
        if len(body) > limit_bytes:
            raise too_large(limit_bytes)
        return body
    parts, size = [body], len(body)
    while message.get("more_body"):
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > limit_bytes:
            raise too_large(limit_bytes)
    return b"".join(parts)


def too_large(limit_bytes: int) -> Problem:
    """The body is longer than the route takes; the connection cannot be used further, for the rest is not read."""
    return Problem("too-large", f"At most {limit_bytes} bytes.", headers={"Connection": "close"})
