"""How many requests a caller may make in a minute, for each class of route, counted in this process.

Ordinary routes bear `@limits.limited("read")`, slowapi's decorator. The routes that are served before the router, and
those that must be refused before their body is read, count by `RateLimits.count`, in the same counters.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final, Literal, TypeVar

from fastapi import Request
from limits import RateLimitItem, parse
from slowapi import Limiter

from api.error_responses import Problem
from shared.settings import Settings

RouteClass = Literal["read", "submit", "upload"]
ROUTE_CLASSES: Final[tuple[RouteClass, ...]] = ("read", "submit", "upload")
Endpoint = TypeVar("Endpoint", bound=Callable[..., Any])
LIMITED_MARK: Final = "__rate_limit_class__"

_current: RateLimits | None = None


def _caller_key(request: Request) -> str:
    key: str = request.state.caller.rate_key
    return key


def _limit_of(key: str) -> str:
    assert _current is not None
    return str(_current.item_for(key))


limiter = Limiter(key_func=_caller_key, headers_enabled=True, key_style="endpoint", storage_uri="memory://")


def limited(route_class: RouteClass) -> Callable[[Endpoint], Endpoint]:
    """Count requests to an endpoint. It must take `request`, have a caller, and return a `Response`."""

    def decorate(endpoint: Endpoint) -> Endpoint:
        wrapped = limiter.shared_limit(_limit_of, scope=route_class)(endpoint)
        setattr(wrapped, LIMITED_MARK, route_class)
        return wrapped  # type: ignore[no-any-return]

    return decorate


class RateLimits:
    """The limits of one process."""

    def __init__(self, settings: Settings) -> None:
        global _current
        self._client = parse(f"{settings.rate_limit_client}/minute")
        self._privileged = parse(f"{settings.rate_limit_privileged}/minute")
        self._unauthenticated = parse(f"{settings.rate_limit_unauthenticated}/minute")
        _current = self
        limiter.reset()

    def item_for(self, rate_key: str) -> RateLimitItem:
        """Give the limit of a caller, by the key that their requests are counted by."""
        return self._client if rate_key.startswith("client:") else self._privileged

    def count(self, route_class: RouteClass, rate_key: str) -> list[tuple[bytes, bytes]]:
        """Count one request; give the headers of its answer. Raises the problem `rate-limited`."""
        item = self.item_for(rate_key)
        allowed = limiter.limiter.hit(item, rate_key, route_class)
        window = limiter.limiter.get_window_stats(item, rate_key, route_class)
        if not allowed:
            raise _refusal(item.amount, 0, window.reset_time)
        return [
            (b"x-ratelimit-limit", b"%d" % item.amount),
            (b"x-ratelimit-remaining", b"%d" % max(0, window.remaining)),
            (b"x-ratelimit-reset", b"%d" % window.reset_time),
        ]

    def count_refused(self, address: str) -> None:
        """Count one request with refused credentials. Raises `rate-limited` when an address makes too many."""
        item = self._unauthenticated
        if not limiter.limiter.hit(item, address, "unauthenticated"):
            window = limiter.limiter.get_window_stats(item, address, "unauthenticated")
            raise _refusal(item.amount, 0, window.reset_time)


def rate_limited(request: Request) -> Problem:
    """Give the problem for a request that slowapi refused."""
    item, arguments = request.state.view_rate_limit
    window = limiter.limiter.get_window_stats(item, *arguments)
    return _refusal(item.amount, 0, window.reset_time)


def headers_of(request: Request) -> dict[str, str]:
    """Give the limit's headers for a counted request that ended in a problem; nothing for one that was not counted."""
    counted = getattr(request.state, "view_rate_limit", None)
    if counted is None:
        return {}
    item, arguments = counted
    window = limiter.limiter.get_window_stats(item, *arguments)
    return _headers(item.amount, max(0, window.remaining), window.reset_time)


def _headers(amount: int, remaining: int, reset_time: float) -> dict[str, str]:
    return {
        "X-RateLimit-Limit": str(amount),
        "X-RateLimit-Remaining": str(remaining),
        "X-RateLimit-Reset": str(int(reset_time)),
    }


def _refusal(amount: int, remaining: int, reset_time: float) -> Problem:
    return Problem(
        "rate-limited",
        headers={
            "Retry-After": str(max(1, int(reset_time - time.time()) + 1)),
            **_headers(amount, remaining, reset_time),
        },
    )
