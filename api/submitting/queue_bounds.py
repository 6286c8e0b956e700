"""Refuses submissions while too many tasks are queued, of all callers together or of one caller.

Each process counts the queued tasks in the database every `COUNT_SECONDS`, and adds those that it accepts in between. It
does not know what other processes accept in between, so that several processes together can exceed a bound by that much.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from typing import Final
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncEngine

from api.http.problems import Problem
from shared.queries.tasks import COUNT_QUEUED
from shared.settings import Settings

COUNT_SECONDS: Final = 1.0
QUEUE_FULL_RETRY_SECONDS: Final = 5


class QueueBounds:
    """The bounds `max_queued` and `max_queued_per_caller`. While neither is set, `admit` does nothing."""

    def __init__(self, settings: Settings, reads: AsyncEngine) -> None:
        self._max_queued = settings.max_queued
        self._max_queued_per_caller = settings.max_queued_per_caller
        self._reads = reads
        self._queued: Counter[UUID] = Counter()
        self._total = 0
        self._counted_at = float("-inf")
        self._counting = asyncio.Lock()

    async def admit(self, owner_id: UUID, tasks: int) -> None:
        """Count `tasks` more tasks of a caller as queued. Raises the problem `queue-full` if a bound would be exceeded."""
        if not self._max_queued and not self._max_queued_per_caller:
            return
        async with self._counting:
            if time.monotonic() - self._counted_at > COUNT_SECONDS:
                await self._count()
        if self._max_queued and self._total + tasks > self._max_queued:
            raise _queue_full(f"At most {self._max_queued} tasks may be queued, and {tasks} more would exceed this.")
        if self._max_queued_per_caller and self._queued[owner_id] + tasks > self._max_queued_per_caller:
            raise _queue_full(
                f"At most {self._max_queued_per_caller} tasks of one caller may be queued, and {tasks} more would exceed this."
            )
        self._queued[owner_id] += tasks
        self._total += tasks

    async def _count(self) -> None:
        async with self._reads.connect() as connection:
            rows = (await connection.exec_driver_sql(COUNT_QUEUED)).all()
        self._queued = Counter({row.owner_id: row.queued for row in rows})
        self._total = self._queued.total()
        self._counted_at = time.monotonic()


def _queue_full(detail: str) -> Problem:
    return Problem("queue-full", detail, headers={"Retry-After": str(QUEUE_FULL_RETRY_SECONDS)})
