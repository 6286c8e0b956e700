"""Security headers of every answer, which restrict what browsers do with it."""

from __future__ import annotations

from typing import Final

from api.http.headers import RawHeaders

SECURITY_HEADERS: Final[RawHeaders] = [
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"permissions-policy", b"interest-cohort=()"),
    (b"strict-transport-security", b"max-age=31536000"),
]
CONTENT_SECURITY_POLICY: Final = (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'")
"""The policy of every answer without one of its own. Pages have their own."""
