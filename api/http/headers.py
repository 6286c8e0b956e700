"""Reads header fields of a request."""

from __future__ import annotations

from starlette.requests import HTTPConnection

RawHeaders = list[tuple[bytes, bytes]]
"""Header fields as ASGI has them: lower-case names and values, in the order of the request."""


def find_header(request: HTTPConnection, name: str) -> str | None:
    """Return a header's value, or None. Repeated fields are joined into one list (RFC 9110, section 5.3)."""
    lines = request.headers.getlist(name)
    return ", ".join(lines) if lines else None


def join_repeated_headers(headers: RawHeaders) -> dict[bytes, bytes]:
    """Return the headers by name. Repeated fields are joined into one list (RFC 9110, section 5.3)."""
    joined = dict(headers)
    if len(joined) < len(headers):
        joined.clear()
        for name, value in headers:
            joined[name] = joined[name] + b", " + value if name in joined else value
    return joined
