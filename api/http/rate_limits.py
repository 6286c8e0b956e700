"""Limits how many requests a caller may make in a minute, for each class of route, counted in this process.

Routes have the decorator `@limited("read")`, which uses slowapi. The hot paths, which are served before the router, call
`RateLimits.count`, and requests that are refused before their endpoint runs are counted by `count_unless_counted`. All use
the same counters, so that each request counts once. `limiter` belongs to the process, as slowapi's decorators need it when
modules are imported; `RateLimits` sets its limits.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Mapping
from functools import lru_cache
from math import ceil
from typing import Any, Final, NamedTuple, TypeVar, cast

from fastapi import Request, Response
from limits import RateLimitItem, RateLimitItemPerMinute, parse
from limits.storage.memory import MemoryStorage
from slowapi import Limiter

from api.http.problems import Problem, invalid
from shared.limits import RouteClass
from shared.settings import Settings

ROUTE_CLASSES: Final[tuple[RouteClass, ...]] = ("read", "submit", "upload")
UNAUTHENTICATED: Final = "unauthenticated"
_PER_MINUTE: Final = 60
Endpoint = TypeVar("Endpoint", bound=Callable[..., Any])
LIMITED_MARK: Final = "__rate_limit_class__"

_current: RateLimits | None = None


def _caller_key(request: Request) -> str:
    key: str = request.state.caller.rate_key
    return key


class Window(NamedTuple):
    """A window of a minute in which requests are counted."""

    amount: int
    """How many requests are allowed in it."""
    used: int
    """How many there were, this one too."""
    reset_time: float
    """When it ends, in seconds of Unix time."""

    @property
    def remaining(self) -> int:
        """How many requests are left."""
        return max(0, self.amount - self.used)


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

        def limit_of(key: str) -> str:
            assert _current is not None
            return str(_current.item_for(route_class, key))

        counted = limiter.shared_limit(limit_of, scope=route_class)(answer_once_counted)

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
    """The limits of one process: those of the settings, and those that organizations and callers have instead."""

    def __init__(self, settings: Settings) -> None:
        global _current
        self._client = parse(f"{settings.rate_limit_client}/minute")
        self._privileged = parse(f"{settings.rate_limit_privileged}/minute")
        self._unauthenticated = parse(f"{settings.rate_limit_unauthenticated}/minute")
        self._own: dict[str, Mapping[RouteClass, RateLimitItem]] = {}
        _current = self
        limiter.reset()

    def replace_own(self, rate_key: str, requests_per_minute: Mapping[RouteClass, int]) -> None:
        """Use these limits for a caller instead of those of the settings, by class of routes; none to use the settings again."""
        if requests_per_minute:
            self._own[rate_key] = {name: _per_minute(amount) for name, amount in requests_per_minute.items()}
        elif self._own:
            self._own.pop(rate_key, None)

    def item_for(self, route_class: RouteClass, rate_key: str) -> RateLimitItem:
        """Return the limit of a caller, by its `rate_key`, for a class of routes."""
        if self._own and (own := self._own.get(rate_key, {}).get(route_class)) is not None:
            return own
        return self._client if rate_key.startswith("client:") else self._privileged

    def count(self, route_class: RouteClass, rate_key: str) -> list[tuple[bytes, bytes]]:
        """Count one request, and return the headers of its answer. Raises the problem `rate-limited`."""
        item = self.item_for(route_class, rate_key)
        key, counters = item.key_for(rate_key, route_class), limiter.limiter.storage
        count = counters.incr(key, item.get_expiry())
        reset_time = counters.get_expiry(key)
        if count > item.amount:
            raise refuse(route_class, Window(item.amount, count, reset_time))
        amount, remaining, name = item.amount, item.amount - count, route_class.encode()
        return [
            (b"x-ratelimit-limit", b"%d" % amount),
            (b"x-ratelimit-remaining", b"%d" % remaining),
            (b"x-ratelimit-reset", b"%d" % reset_time),
            (b"ratelimit-policy", b'"%b";q=%d;w=60' % (name, amount)),
            (b"ratelimit", b'"%b";r=%d;t=%d' % (name, remaining, _seconds_until(reset_time))),
        ]

    def count_refused(self, network: str) -> dict[str, str]:
        """Count one request with refused credentials by its client's network, and return the headers of its answer.

        Raises the problem `rate-limited` when a network sends too many.
        """
        item = self._unauthenticated
        allowed = limiter.limiter.hit(item, network, UNAUTHENTICATED)
        window = _window_of(item, network, UNAUTHENTICATED)
        if not allowed:
            raise refuse(UNAUTHENTICATED, window)
        return limit_headers(UNAUTHENTICATED, window)


@lru_cache(maxsize=1024)
def _per_minute(amount: int) -> RateLimitItem:
    return RateLimitItemPerMinute(amount)


def _window_of(item: RateLimitItem, key: str, route_class: str) -> Window:
    stats = limiter.limiter.get_window_stats(item, key, route_class)
    return Window(item.amount, item.amount - stats.remaining, stats.reset_time)


def rate_limited(request: Request) -> Problem:
    """Return the problem for a request that slowapi refused."""
    item, (key, route_class) = request.state.view_rate_limit
    return refuse(route_class, _window_of(item, key, route_class))


def count_unless_counted(request: Request) -> None:
    """Count a request that was refused before its endpoint ran, as one to that endpoint. Raises `rate-limited`."""
    route_class = getattr(request.scope.get("endpoint"), LIMITED_MARK, None)
    caller = getattr(request.state, "caller", None)
    if route_class is None or caller is None or getattr(request.state, "view_rate_limit", None) is not None:
        return
    assert _current is not None
    item = _current.item_for(route_class, caller.rate_key)
    request.state.view_rate_limit = (item, [caller.rate_key, route_class])
    if not limiter.limiter.hit(item, caller.rate_key, route_class):
        raise rate_limited(request)


def headers_of(request: Request) -> dict[str, str]:
    """Return the headers of a limit for a request that was counted, and none for one that was not."""
    counted = getattr(request.state, "view_rate_limit", None)
    if counted is None:
        return {}
    item, (key, route_class) = counted
    return limit_headers(route_class, _window_of(item, key, route_class))


def limit_headers(route_class: str, window: Window) -> dict[str, str]:
    """Return the headers of a limit: `RateLimit` and `RateLimit-Policy` (draft-ietf-httpapi-ratelimit-headers-10), and `X-…`."""
    return {
        "X-RateLimit-Limit": str(window.amount),
        "X-RateLimit-Remaining": str(window.remaining),
        "X-RateLimit-Reset": str(int(window.reset_time)),
        "RateLimit-Policy": f'"{route_class}";q={window.amount};w={_PER_MINUTE}',
        "RateLimit": f'"{route_class}";r={window.remaining};t={_seconds_until(window.reset_time)}',
    }


def refuse(route_class: str, window: Window) -> Problem:
    """Return the problem `rate-limited` for a request beyond a limit."""
    retry_after_seconds = max(1, _seconds_until(window.reset_time))
    return Problem(
        "rate-limited", headers={"Retry-After": str(retry_after_seconds), **limit_headers(route_class, window)}
    )


def _seconds_until(moment: float) -> int:
    return max(0, ceil(moment - time.time()))
