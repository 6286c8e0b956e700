"""Checks that the hosts of webhooks resolve, so that a typo in a URL is refused at once.

Whether an address may be connected to is decided by the worker that connects (`workers/adapters/address_guard.py`).
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from api.http.problems import MAX_FIELD_ERRORS, FieldError, Problem
from shared.webhooks.urls import find_host

LOOK_UP_SECONDS: Final = 5.0
KNOWN_SECONDS: Final = 60.0
"""For how long a host that was resolved is not looked up again."""
MAX_KNOWN: Final = 10_000
MAX_LOOK_UPS: Final = 8
"""How many look-ups may run at a time: each occupies a thread until the system's resolver gives up."""

LookUp = Callable[[str, int], Any]


def look_up(host: str, port: int) -> Any:
    """Return the addresses of a host. Raises `OSError` or `UnicodeError` when there is none."""
    return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)


class ReceiverHosts:
    """Looks up the hosts of webhooks, in threads of its own: others would wait for a name server that does not answer."""

    def __init__(self, look_up: LookUp = look_up) -> None:
        self._look_up = look_up
        self._known: dict[str, float] = {}
        self._threads = ThreadPoolExecutor(MAX_LOOK_UPS, thread_name_prefix="receiver-hosts")

    def close(self) -> None:
        """Begin no look-up any more."""
        self._threads.shutdown(wait=False, cancel_futures=True)

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
        """Return whether a host resolves, also if it could not be looked up because too many others are."""
        now = time.monotonic()
        if self._known.get(host, 0.0) > now:
            return True
        looking_up = self._threads.submit(self._look_up, host, port)
        try:
            found = await asyncio.wait_for(asyncio.wrap_future(looking_up), LOOK_UP_SECONDS)
        except TimeoutError:
            return looking_up.cancelled()
        except (OSError, UnicodeError):
            return False
        if found:
            if len(self._known) >= MAX_KNOWN:
                self._known.clear()
            self._known[host] = now + KNOWN_SECONDS
        return bool(found)
