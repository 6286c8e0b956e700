"""Where a request comes from, and the cookie in which browsers keep a refresh token.

A browser sends the cookie by itself, whoever caused the request. So a request that uses it must show that a page of this server
caused it, by `Sec-Fetch-Site` or by `Origin`, and `SameSite=Strict` keeps browsers from sending it otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from fastapi import Request, Response

from api.auditing.entries import find_address
from api.http.headers import find_header
from api.http.problems import Problem

REFRESH_COOKIE: Final = "__Host-taskmill-refresh"
MAX_AGENT_CHARACTERS: Final = 300


@dataclass(frozen=True)
class Client:
    """The client of a request."""

    address: str | None
    agent: str | None
    request_id: str


def read_client(request: Request) -> Client:
    """Return where a request comes from: the address is the one that the trusted proxies report."""
    agent = find_header(request, "user-agent")
    return Client(
        find_address(request),
        agent.encode("latin-1", "replace").decode("utf-8", "replace").replace("\0", "")[:MAX_AGENT_CHARACTERS]
        if agent
        else None,
        request.state.request_id,
    )


def set_refresh_cookie(response: Response, token: str, days: int) -> None:
    """Store a refresh token in the browser."""
    response.set_cookie(
        REFRESH_COOKIE, token, max_age=days * 86400, path="/", secure=True, httponly=True, samesite="strict"
    )


def delete_refresh_cookie(response: Response) -> None:
    """Delete the refresh token in the browser."""
    response.delete_cookie(REFRESH_COOKIE, path="/", secure=True, httponly=True, samesite="strict")


def find_refresh_cookie(request: Request) -> str | None:
    """Return the refresh token in the cookie, if there is one. Raises `forged-request` for a request of another site."""
    token = request.cookies.get(REFRESH_COOKIE)
    if token is not None:
        require_same_origin(request)
    return token


def require_same_origin(request: Request) -> None:
    """Raise the problem `forged-request` unless a page of this server caused the request."""
    site, origin = find_header(request, "sec-fetch-site"), find_header(request, "origin")
    if site is not None and site != "same-origin":
        raise Problem("forged-request")
    if origin is not None and urlsplit(origin).netloc.lower() != (find_header(request, "host") or "").lower():
        raise Problem("forged-request")
    if site is None and origin is None:
        raise Problem("forged-request")
