"""Conditional requests (RFC 9110, section 13)."""

from __future__ import annotations


def matches_etag(if_none_match: str, etag: str) -> bool:
    """Return whether the value of `If-None-Match` names an entity tag (RFC 9110, section 13.1.2: weak comparison)."""
    if if_none_match.strip() == "*":
        return True
    return any(tag.strip().removeprefix("W/") == etag for tag in if_none_match.split(","))
