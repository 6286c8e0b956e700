"""Limits how many requests a caller may make in a minute, for each class of route, counted in this process.

Routes have the decorator `@limited("read")`, which uses slowapi. The hot paths, which are served before the router, call
`RateLimits.count`, and requests that are refused before their endpoint runs are counted by `count_unless_counted`. All use
the same counters, so that each request counts once. `limiter` belongs to the process, as slowapi's decorators need it when
modules are imported; `RateLimits` sets its limits.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any, Final, Literal, TypeVar, cast

from fastapi import Request, Response
from limits import RateLimitItem, parse
from limits.storage.memory import MemoryStorage
from slowapi import Limiter

from api.http.problems import Problem, invalid
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


class WindowCounters(MemoryStorage):
    """Counters of fixed windows in this process. Only the event loop uses them, so that there is no lock.

    The base class starts a thread a hundred times a second to drop windows that are over. Under load that took more
    processor time than the counting itself, and delayed requests.
    """

    STORAGE_SCHEME = ["windows"]  # noqa: RUF012 - the base class declares it, as that of an instance.
    SWEEP_SECONDS: Final = 60.0
    _next_sweep = 0.0

    def incr(self, key: str, expiry: float, amount: int = 1) -> int:
        """Count, in a window that begins now if there is none, and return the count. `expiry` is in seconds."""
        now = time.time()
        if self.expirations.get(key, 0.0) <= now:
            self._sweep(now)
            self.storage[key] = 0
            self.expirations[key] = now + expiry
        self.storage[key] += amount
        return self.storage[key]

    def _sweep(self, now: float) -> None:
        """Delete windows that are over, so that memory does not grow with the number of callers."""
        if now < self._next_sweep:
            return
        self._next_sweep = now + self.SWEEP_SECONDS
        for key in [key for key, end in self.expirations.items() if end <= now]:
            self.storage.pop(key, None)
            self.expirations.pop(key, None)


# slowapi would add a `Retry-After` of the whole window to every answer, so the headers are added in this module.
limiter = Limiter(key_func=_caller_key, headers_enabled=False, key_style="endpoint", storage_uri="windows://")


def limited(route_class: RouteClass) -> Callable[[Endpoint], Endpoint]:
    """Return a decorator that counts the requests to an endpoint, and refuses those beyond the limit.

    The endpoint must take `request`, have a caller, and return a `Response`. A query parameter that is given twice is
    refused, since it is unknown which of the two is meant.
    """

    def decorate(endpoint: Endpoint) -> Endpoint:
        @functools.wraps(endpoint)
        async def answer_once_counted(*args: Any, **kwargs: Any) -> Response:
            _refuse_repeated(kwargs["request"])
            response: Response = await endpoint(*args, **kwargs)
            return response

        counted = limiter.shared_limit(_limit_of, scope=route_class)(answer_once_counted)

        @functools.wraps(endpoint)
        async def answer(*args: Any, **kwargs: Any) -> Response:
            response: Response = await counted(*args, **kwargs)
            response.headers.update(headers_of(kwargs["request"]))
            return response

        setattr(answer, LIMITED_MARK, route_class)
        return cast(Endpoint, answer)

    return decorate


def _refuse_repeated(request: Request) -> None:
    if not request.scope["query_string"]:
        return
    names = [name for name, _ in request.query_params.multi_items()]
    for name in names:
        if names.count(name) > 1:
            raise invalid(f"query:{name}", "repeated", "Must be given once")


class RateLimits:
    """The limits of one process, with the values of the settings."""

    def __init__(self, settings: Settings) -> None:
        global _current
        self._client = parse(f"{settings.rate_limit_client}/minute")
        self._privileged = parse(f"{settings.rate_limit_privileged}/minute")
        self._unauthenticated = parse(f"{settings.rate_limit_unauthenticated}/minute")
        _current = self
        limiter.reset()

    def item_for(self, rate_key: str) -> RateLimitItem:
        """Return the limit of a caller by its `rate_key`."""
        return self._client if rate_key.startswith("client:") else self._privileged

    def count(self, route_class: RouteClass, rate_key: str) -> list[tuple[bytes, bytes]]:
        """Count one request, and return the headers of its answer. Raises the problem `rate-limited`."""
        item = self.item_for(rate_key)
        key, counters = item.key_for(rate_key, route_class), limiter.limiter.storage
        count = counters.incr(key, item.get_expiry())
        reset_time = counters.get_expiry(key)
        if count > item.amount:
            raise _refusal(item.amount, 0, reset_time)
        return [
            (b"x-ratelimit-limit", b"%d" % item.amount),
            (b"x-ratelimit-remaining", b"%d" % (item.amount - count)),
            (b"x-ratelimit-reset", b"%d" % reset_time),
        ]

    def count_refused(self, address: str) -> dict[str, str]:
        """Count one request with refused credentials by its client's address, and return the headers of its answer.

        Raises the problem `rate-limited` when an address sends too many.
        """
        item = self._unauthenticated
        allowed = limiter.limiter.hit(item, address, "unauthenticated")
        window = limiter.limiter.get_window_stats(item, address, "unauthenticated")
        if not allowed:
            raise _refusal(item.amount, 0, window.reset_time)
        return _headers(item.amount, max(0, window.remaining), window.reset_time)


def rate_limited(request: Request) -> Problem:
    """Return the problem for a request that slowapi refused."""
    item, arguments = request.state.view_rate_limit
    window = limiter.limiter.get_window_stats(item, *arguments)
    return _refusal(item.amount, 0, window.reset_time)


def count_unless_counted(request: Request) -> None:
    """Count a request that was refused before its endpoint ran, as one to that endpoint. Raises `rate-limited`."""
    route_class = getattr(request.scope.get("endpoint"), LIMITED_MARK, None)
    caller = getattr(request.state, "caller", None)
    if route_class is None or caller is None or getattr(request.state, "view_rate_limit", None) is not None:
        return
    assert _current is not None
    item = _current.item_for(caller.rate_key)
    request.state.view_rate_limit = (item, [caller.rate_key, route_class])
    if not limiter.limiter.hit(item, caller.rate_key, route_class):
        raise rate_limited(request)


def headers_of(request: Request) -> dict[str, str]:
    """Return the headers of a limit for a request that was counted, and none for one that was not."""
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
