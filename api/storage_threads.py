"""Runs the storage port, which blocks, in threads of its own: a storage that hangs holds up nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

MOST_THREADS: Final = 32

_executor: Final = ThreadPoolExecutor(MOST_THREADS, thread_name_prefix="storage")


async def in_storage_thread(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Give what `work` answers or raises. Cancelled, it returns at once, and work that has begun goes on."""
    return await asyncio.wrap_future(start_in_storage_thread(work, *args, **kwargs))


def start_in_storage_thread(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Future[T]:
    """Begin work that is done even if nobody waits for it, as tidying up must be when a request is cancelled."""
    return _executor.submit(work, *args, **kwargs)
