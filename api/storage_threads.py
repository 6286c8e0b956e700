"""Runs blocking calls of the storage in threads of their own, so that a storage that hangs delays nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

MAX_THREADS: Final = 32

_executor: Final = ThreadPoolExecutor(MAX_THREADS, thread_name_prefix="storage")


async def in_storage_thread(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Return or raise what `work` returns or raises. If this is cancelled, work that has begun continues in its thread."""
    return await asyncio.wrap_future(start_in_storage_thread(work, *args, **kwargs))


def start_in_storage_thread(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Future[T]:
    """Start work that continues even if nothing awaits it, such as deleting an object after a request was cancelled."""
    return _executor.submit(work, *args, **kwargs)
