"""Checks that the hosts of webhooks resolve, so that a typo in a URL is refused at once.

Whether an address may be connected to is decided by the worker that connects (`workers/adapters/address_guard.py`).
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from api.http.problems import MAX_FIELD_ERRORS, FieldError, Problem
from shared.webhooks.urls import find_host

LOOK_UP_SECONDS: Final = 5.0
KNOWN_SECONDS: Final = 60.0
"""For how long a host that was resolved is not looked up again."""
MAX_KNOWN: Final = 10_000
MAX_LOOK_UPS: Final = 8
"""How many look-ups may run at a time: each occupies a thread until the system's resolver gives up."""

LookUp = Callable[[str, int], Awaitable[Any]]


async def look_up(host: str, port: int) -> Any:
    """Return the addresses of a host. Raises `OSError` when there is none."""
    return await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)


class ReceiverHosts:
    """Looks up the hosts of webhooks."""

    def __init__(self, look_up: LookUp = look_up) -> None:
        self._look_up = look_up
        self._known: dict[str, float] = {}
        self._running = asyncio.Semaphore(MAX_LOOK_UPS)

    async def require(self, urls: Mapping[str, str]) -> None:
        """Raise the problem `validation` unless the host of every URL resolves. `urls` are URLs by JSON Pointer."""
        hosts = {find_host(url) for url in urls.values()}
        resolves = dict(zip(hosts, await asyncio.gather(*(self._resolves(*host) for host in hosts)), strict=True))
        errors = [
            FieldError(pointer, "host_not_resolved", f"The host {find_host(url)[0]} does not resolve to an address.")
            for pointer, url in urls.items()
            if not resolves[find_host(url)]
        ]
        if errors:
            raise Problem("validation", errors=errors[:MAX_FIELD_ERRORS])

    async def _resolves(self, host: str, port: int) -> bool:
        now = time.monotonic()
        if self._known.get(host, 0.0) > now:
            return True
        try:
            async with asyncio.timeout(LOOK_UP_SECONDS), self._running:
                found = await self._look_up(host, port)
        except (OSError, UnicodeError):
            return False
        if found:
            if len(self._known) >= MAX_KNOWN:
                self._known.clear()
            self._known[host] = now + KNOWN_SECONDS
        return bool(found)
