"""Refuses submissions while too much is queued, for all or for one caller.

What is queued is counted in the database once in `COUNT_SECONDS` by each process that has a bound to keep, and what this
process accepts in between is added: several processes together may go over a bound by what they accept in that time.
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
RETRY_AFTER_SECONDS: Final = 5


class QueueBounds:
    """The bounds of one process; without one, `admit` does nothing."""

    def __init__(self, settings: Settings, reads: AsyncEngine) -> None:
        self._most = settings.max_queued
        self._most_of_a_caller = settings.max_queued_per_caller
        self._reads = reads
        self._queued: Counter[UUID] = Counter()
        self._total = 0
        self._counted_at = float("-inf")
        self._counting = asyncio.Lock()

    async def admit(self, owner_id: UUID, tasks: int) -> None:
        """Count so many tasks of a caller as queued. Raises the problem `queue-full` when there is no room for them."""
        if not self._most and not self._most_of_a_caller:
            return
        async with self._counting:
            if time.monotonic() - self._counted_at > COUNT_SECONDS:
                await self._count()
        if self._most and self._total + tasks > self._most:
            raise _queue_full(f"{self._most} tasks may be queued, and there is no room for {tasks} more.")
        if self._most_of_a_caller and self._queued[owner_id] + tasks > self._most_of_a_caller:
            raise _queue_full(f"{self._most_of_a_caller} tasks of a caller may be queued, not {tasks} more.")
        self._queued[owner_id] += tasks
        self._total += tasks

    async def _count(self) -> None:
        async with self._reads.connect() as connection:
            rows = (await connection.exec_driver_sql(COUNT_QUEUED)).all()
        self._queued = Counter({row.owner_id: row.queued for row in rows})
        self._total = self._queued.total()
        self._counted_at = time.monotonic()


def _queue_full(detail: str) -> Problem:
    return Problem("queue-full", detail, headers={"Retry-After": str(RETRY_AFTER_SECONDS)})
