"""Verifies and hashes passwords in threads, a few at a time, so that the event loop goes on and memory is bounded."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable
from typing import Final, TypeVar

from api.http.problems import FieldError, Problem
from shared.people.passwords import PasswordHasher, UnacceptablePassword, check_new_password, normalize_password
from shared.settings import Settings

T = TypeVar("T")
MAX_WAITING: Final = 200
"""How many requests may wait for a thread. More are refused, since they would wait for longer than clients do."""


class Passwords:
    """The passwords of one process."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._hasher: PasswordHasher | None = None
        self._threads = asyncio.Semaphore(max(2, os.cpu_count() or 1))
        self._waiting = 0
        self._making = threading.Lock()

    async def verify(self, password: str, stored: str | None) -> bool:
        """Return whether a password is the stored one. Without one, the same work is done in vain."""
        return await self._run(lambda hasher: hasher.verify(password, stored))

    async def rehash(self, password: str, stored: str) -> str | None:
        """Return a new hash of a right password, or None if the stored one has the parameters of the settings."""
        normalized = normalize_password(password)
        assert normalized is not None
        return await self._run(lambda hasher: hasher.hash(normalized) if hasher.is_outdated(stored) else None)

    async def hash(self, normalized: str) -> str:
        """Return the hash of a normalized password."""
        return await self._run(lambda hasher: hasher.hash(normalized))

    async def _run(self, work: Callable[[PasswordHasher], T]) -> T:
        if self._waiting >= MAX_WAITING:
            raise Problem("unavailable", "Too many sign-ins are waiting: try again.", headers={"Retry-After": "2"})
        self._waiting += 1
        try:
            async with self._threads:
                return await asyncio.to_thread(lambda: work(self._get_hasher()))
        finally:
            self._waiting -= 1

    def _get_hasher(self) -> PasswordHasher:
        """Return the hasher. Making it hashes a password, so that it is made in the thread of the first request."""
        with self._making:
            if self._hasher is None:
                self._hasher = PasswordHasher(self._settings)
            return self._hasher


def require_new_password(password: str, email: str, pointer: str = "/password") -> str:
    """Return a new password in the form that is hashed. Raises the problem `validation`."""
    try:
        return check_new_password(password, email)
    except UnacceptablePassword as error:
        raise Problem("validation", errors=[FieldError(pointer, error.code, str(error))]) from None
