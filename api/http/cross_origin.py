"""Allows pages of other origins, which the operator has named, to call the API from a browser (CORS).

Credentials are not allowed: such a page sends an API key or an access token in a header, and no cookie.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp

METHODS: Final = ("GET", "HEAD", "POST", "PATCH", "PUT", "DELETE")
REQUEST_HEADERS: Final = (
    "Authorization",
    "Content-Type",
    "Idempotency-Key",
    "If-Match",
    "If-None-Match",
    "Last-Event-ID",
    "Prefer",
    "Range",
    "X-API-Key",
    "X-Request-Id",
)
"""What a page may send beside the headers that every page may send, such as `Accept`."""
ANSWER_HEADERS: Final = (
    "Accept-Ranges",
    "Content-Disposition",
    "Content-Range",
    "ETag",
    "Idempotency-Replayed",
    "Link",
    "Location",
    "Preference-Applied",
    "RateLimit",
    "RateLimit-Policy",
    "Retry-After",
    "WWW-Authenticate",
    "X-RateLimit-Limit",
    "X-RateLimit-Remaining",
    "X-RateLimit-Reset",
    "X-Request-Id",
)
"""What a page may read."""
REMEMBERED_SECONDS: Final = 600
"""How long a browser may remember what was allowed."""


def allow_origins(app: ASGIApp, origins: Sequence[str]) -> ASGIApp:
    """Return an application that also answers pages of these origins; without any, the application itself."""
    if not origins:
        return app
    return CORSMiddleware(
        app,
        allow_origins=origins,
        allow_methods=METHODS,
        allow_headers=REQUEST_HEADERS,
        expose_headers=ANSWER_HEADERS,
        max_age=REMEMBERED_SECONDS,
    )
