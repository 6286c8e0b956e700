"""Conditional requests (RFC 9110, section 13)."""

from __future__ import annotations

from fastapi import Request

from api.http.headers import find_header
from api.http.problems import Problem


def matches_etag(header: str, etag: str) -> bool:
    """Return whether the value of `If-None-Match` or `If-Match` names an entity tag.

    The comparison is weak (section 8.8.3.2), because a proxy that compresses an answer makes its entity tag a weak one.
    """
    if header.strip() == "*":
        return True
    return any(tag.strip().removeprefix("W/") == etag for tag in header.split(","))


def require_match(request: Request, etag: str) -> None:
    """Raise `precondition-required` without `If-Match`, and `precondition-failed` unless it names the current entity tag."""
    if_match = find_header(request, "if-match")
    if if_match is None:
        raise Problem("precondition-required")
    if not matches_etag(if_match, etag):
        raise Problem("precondition-failed")
