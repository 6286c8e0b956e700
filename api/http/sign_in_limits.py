"""Limits how often an address may try to sign in, register or reset a password, counted in the broker for all processes.

`SignInGuard` counts by the network of the client, before the body is read. Routes count by account with
`SignInLimits.count_account`, before they compare a password. While the broker does not answer, each process counts for itself:
a request waits for it no longer than `BROKER_SECONDS`, and then no request asks it for `SILENT_SECONDS`.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from contextlib import suppress
from typing import Final

import structlog
from limits import RateLimitItemPerMinute
from limits.aio.storage import RedisStorage
from limits.aio.strategies import FixedWindowRateLimiter
from redis.asyncio import ConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.http.client_network import find_client_network
from api.http.headers import RawHeaders
from api.http.problems import Problem
from api.http.rate_limits import Window, WindowCounters, limit_headers, refuse
from shared.settings import Settings

BROKER_SECONDS: Final = 0.1
SILENT_SECONDS: Final = 2.0
SIGN_IN: Final = "sign_in"
UNLIMITED_PATHS: Final = frozenset({"/auth/refresh", "/auth/logout", "/auth/logout-everywhere"})
"""Routes of `/auth/` that a signed-in browser calls, which is recognized by its token."""
INVITATION_PATHS: Final = frozenset({"/invitations", "/invitations/accept"})
"""Routes that send an email to an address which the caller chooses, or take the token of such an email."""
PROVIDER_PATHS: Final = "/auth/oidc/"
"""Routes that browsers are sent to in order to sign in with a provider."""
log = structlog.get_logger()


class SharedCounters:
    """Counts in windows of a minute, in the broker, or in this process while the broker does not answer."""

    def __init__(self, settings: Settings) -> None:
        self._url = settings.broker_url if settings.broker_is_redis else None
        self._pool: ConnectionPool | None = None
        self._limiter: FixedWindowRateLimiter | None = None
        self._own = WindowCounters()
        self._silent_until = 0.0

    async def count(self, item: RateLimitItemPerMinute, *identifiers: str) -> Window:
        """Count one request, and return the window that it belongs to."""
        if self._url is not None and time.monotonic() >= self._silent_until:
            try:
                async with asyncio.timeout(BROKER_SECONDS):
                    return await self._count_in_broker(self._url, item, *identifiers)
            except (RedisError, OSError, TimeoutError) as error:
                self._silent_until = time.monotonic() + SILENT_SECONDS
                log.warning("broker_away", error=type(error).__name__, sign_ins="counted in this process")
        key = item.key_for(*identifiers)
        count = self._own.incr(key, item.get_expiry())
        return Window(item.amount, count, self._own.get_expiry(key))

    async def close(self) -> None:
        """Close the connections to the broker."""
        if self._pool is not None:
            with suppress(RedisError, OSError, TimeoutError):
                async with asyncio.timeout(BROKER_SECONDS):
                    await self._pool.disconnect()

    async def _count_in_broker(self, url: str, item: RateLimitItemPerMinute, *identifiers: str) -> Window:
        if self._limiter is None:
            self._pool = ConnectionPool.from_url(url, retry=Retry(NoBackoff(), 0))
            storage = RedisStorage(f"async+{url}", implementation="redispy", connection_pool=self._pool)  # type: ignore[arg-type] # It is passed on to the client.
            self._limiter = FixedWindowRateLimiter(storage)
        is_allowed = await self._limiter.hit(item, *identifiers)
        stats = await self._limiter.get_window_stats(item, *identifiers)
        used = item.amount - stats.remaining if is_allowed else item.amount + 1
        return Window(item.amount, used, stats.reset_time)


class SignInLimits:
    """The limits of signing in, by address and by account."""

    def __init__(self, settings: Settings) -> None:
        self._counters = SharedCounters(settings)
        self._by_address = RateLimitItemPerMinute(settings.rate_limit_sign_in)
        self._by_account = RateLimitItemPerMinute(settings.rate_limit_sign_in_account)

    async def count_network(self, network: str) -> dict[str, str]:
        """Count an attempt by the network of its client, and return the headers of the answer. Raises `rate-limited`."""
        return _require_room(await self._counters.count(self._by_address, SIGN_IN, "network", network))

    async def count_account(self, account: str) -> None:
        """Count an attempt by the account that it names, such as an email address as compared. Raises `rate-limited`.

        The account need not exist, so that the answer does not show whether it does.
        """
        digest = hashlib.sha256(account.encode()).hexdigest()
        _require_room(await self._counters.count(self._by_account, SIGN_IN, "account", digest))

    async def close(self) -> None:
        """Close the connections to the broker."""
        await self._counters.close()


class SignInGuard:
    """ASGI middleware that counts requests to sign in before they reach the application, which would read the body."""

    def __init__(self, app: ASGIApp, limits: SignInLimits) -> None:
        self._app = app
        self._limits = limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass one request on, or answer it with the problem `rate-limited`."""
        if scope["type"] != "http" or not is_sign_in(scope["method"], scope["path"]):
            await self._app(scope, receive, send)
            return
        try:
            headers = _raw(await self._limits.count_network(find_client_network(scope)))
        except Problem as problem:
            body = problem.body(scope["state"]["request_id"])
            raw = [*_raw(problem.response_headers()), (b"content-length", b"%d" % len(body)), (b"connection", b"close")]
            await send({"type": "http.response.start", "status": problem.status, "headers": raw})
            await send({"type": "http.response.body", "body": body})
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                present = {name.lower() for name, _ in message["headers"]}
                message = {**message, "headers": [*message["headers"], *(h for h in headers if h[0] not in present)]}
            await send(message)

        await self._app(scope, receive, send_with_headers)


def is_sign_in(method: str, path: str) -> bool:
    """Return whether a request signs in, registers, resets a password, or makes or uses an invitation."""
    if method == "GET":
        return path.startswith(PROVIDER_PATHS)
    if method != "POST":
        return False
    return path in INVITATION_PATHS or (path.startswith("/auth/") and path not in UNLIMITED_PATHS)


def _require_room(window: Window) -> dict[str, str]:
    if window.used > window.amount:
        raise refuse(SIGN_IN, window)
    return limit_headers(SIGN_IN, window)


def _raw(headers: dict[str, str]) -> RawHeaders:
    return [(name.lower().encode(), value.encode()) for name, value in headers.items()]
