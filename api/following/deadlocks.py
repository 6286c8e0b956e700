"""Repeats a transaction that Postgres ended because it and another one waited for each other."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from psycopg.errors import DeadlockDetected
from sqlalchemy.exc import OperationalError

T = TypeVar("T")

_TRIES: Final = 3


async def repeat_after_deadlock(action: Callable[[], Awaitable[T]]) -> T:
    """Run a transaction, again if Postgres ends it because of a deadlock, and return its result."""
    for _ in range(_TRIES - 1):
        try:
            return await action()
        except OperationalError as error:
            if not isinstance(error.orig, DeadlockDetected):
                raise
    return await action()
