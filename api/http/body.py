"""Reads the bodies of JSON requests: no more bytes than the route accepts, and only while they arrive fast enough."""

from __future__ import annotations

import asyncio
from typing import Final

from fastapi import Request
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope

from api.http.headers import find_header
from api.http.problems import Problem

BODY_SECONDS: Final = 20.0
BODY_BYTES_PER_SECOND: Final = 500
"""A body must be complete within `BODY_SECONDS`, plus one second for each so many bytes of it that have arrived.

Apache's mod_reqtimeout has the same rule and defaults (`body=20,MinRate=500`).
"""


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


async def read_body(scope: Scope, receive: Receive, limit_bytes: int) -> bytes:
    """Return the whole body.

    Raises the problem `too-large` as soon as the body is known to be longer than the limit, the problem
    `request-timeout` if it arrives too slowly, and `ClientDisconnect`.
    """
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit() and int(value) > limit_bytes:
            raise too_large(limit_bytes)
    loop = asyncio.get_running_loop()
    started = loop.time()
    parts: list[bytes] = []
    size, is_complete = 0, False
    try:
        async with asyncio.timeout_at(started + BODY_SECONDS) as deadline:
            while not is_complete:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ClientDisconnect
                parts.append(message.get("body", b""))
                size += len(parts[-1])
                if size > limit_bytes:
                    raise too_large(limit_bytes)
                is_complete = not message.get("more_body", False)
                deadline.reschedule(started + BODY_SECONDS + size / BODY_BYTES_PER_SECOND)
    except TimeoutError:
        raise Problem(
            "request-timeout", "The body of the request arrived too slowly.", headers={"Connection": "close"}
        ) from None
    return parts[0] if len(parts) == 1 else b"".join(parts)


def too_large(limit_bytes: int) -> Problem:
    """Return the problem for a body that is too long. Its rest is not read, so that the connection must be closed."""
    return Problem("too-large", f"The body may have at most {limit_bytes} bytes.", headers={"Connection": "close"})
