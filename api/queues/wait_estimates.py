"""Estimates how long tasks still wait, for the `Retry-After` of their answers, without a statement for each.

The estimate of a queue is read in the background, at most once in `REFRESH_SECONDS`, while queued tasks of it are asked for.
An estimate is rather too short than too long: a task that is not published yet waits at least for those that are.
"""

from __future__ import annotations

import asyncio
import time
from bisect import bisect_left
from datetime import UTC, datetime
from math import ceil
from typing import Final, NamedTuple, Protocol

import structlog
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from api.queues.queue_reader import QueueConditions, QueueReader
from shared.queries import pauses, queues
from shared.settings import Settings
from shared.tasks.submission import NewTask

LEAST_SECONDS: Final = 1
MOST_SECONDS: Final = 60
UNKNOWN_SHARE: Final = 0.1
"""Where it is not known when a task starts (it is paused, or its queue has no worker), it is worth asking again after this
share of the time that it has waited."""
REFRESH_SECONDS: Final = 2.0
log = structlog.get_logger()


class WaitingTask(Protocol):
    """What is needed of a task that is not done: a row of it has these columns."""

    @property
    def status(self) -> str: ...
    @property
    def queue(self) -> str: ...
    @property
    def kind(self) -> str: ...
    @property
    def turn(self) -> float | None: ...
    @property
    def created_at(self) -> datetime: ...
    @property
    def run_at(self) -> datetime | None: ...
    @property
    def next_attempt_at(self) -> datetime | None: ...


class QueueEstimate(NamedTuple):
    """What is known of a queue since `read_at`, by the monotonic clock."""

    read_at: float
    conditions: QueueConditions
    turns: list[float]
    """The turns of its published tasks, in order."""
    is_paused: bool
    paused_kinds: frozenset[str]

    def wait_seconds(self, kind: str, turn: float | None) -> float | None:
        """Return how long a queued task waits at least, or None if that is not known."""
        is_served = self.conditions.workers or self.conditions.has_unknown_workers
        if self.is_paused or kind in self.paused_kinds or not is_served:
            return None
        ahead = len(self.turns) if turn is None else bisect_left(self.turns, turn)
        return self.conditions.predict_seconds(ahead)


class WaitEstimates:
    """The estimates of one API process."""

    def __init__(self, settings: Settings, reads: AsyncEngine, reader: QueueReader) -> None:
        self._most_published = 2 * settings.window
        self._reads = reads
        self._reader = reader
        self._estimates: dict[str, QueueEstimate] = {}
        self._refreshing: dict[str, asyncio.Task[None]] = {}

    def retry_after_seconds(self, task: WaitingTask) -> int:
        """Return after how many seconds a task that is not done is worth asking for again: 1 to 60."""
        if task.status == "running":
            return LEAST_SECONDS
        if task.status == "queued":
            seconds = self._wait_seconds(task.queue, task.kind, task.turn)
        else:
            # A step of a workflow that waits for other steps has no time.
            due_at = task.next_attempt_at or task.run_at
            seconds = None if due_at is None else (due_at - datetime.now(UTC)).total_seconds()
        if seconds is None:
            seconds = UNKNOWN_SHARE * (datetime.now(UTC) - task.created_at).total_seconds()
        return _bound(seconds)

    def retry_after_submission_seconds(self, task: NewTask) -> int:
        """Return after how many seconds a task that was just submitted is worth asking for: 1 to 60."""
        if task.status == "queued":
            return _bound(self._wait_seconds(task.queue, task.kind, None) or 0)
        if task.run_at is not None:
            return _bound((task.run_at - datetime.now(UTC)).total_seconds())
        return _bound(task.delay or 0)

    async def close(self) -> None:
        """Wait until no estimate is being read."""
        await asyncio.gather(*self._refreshing.values())

    def _wait_seconds(self, queue: str, kind: str, turn: float | None) -> float | None:
        estimate = self._estimates.get(queue)
        if (
            estimate is None or time.monotonic() - estimate.read_at > REFRESH_SECONDS
        ) and queue not in self._refreshing:
            task = self._refreshing[queue] = asyncio.create_task(self._refresh(queue))
            task.add_done_callback(lambda _: self._refreshing.pop(queue))
        return 0 if estimate is None else estimate.wait_seconds(kind, turn)

    async def _refresh(self, queue: str) -> None:
        try:
            async with self._reads.connect() as connection:
                self._estimates[queue] = await self._read(connection, queue)
        except (SQLAlchemyError, OSError, TimeoutError) as error:
            self._estimates.pop(queue, None)
            log.warning("wait_not_estimated", queue=queue, error=type(error).__name__)

    async def _read(self, connection: AsyncConnection, queue: str) -> QueueEstimate:
        paused = (await connection.exec_driver_sql(pauses.LIST_PAUSES)).all()
        conditions = (await self._reader.read_conditions(connection))[queue]
        parameters = {"queue": queue, "limit": self._most_published}
        turns = (await connection.exec_driver_sql(queues.LIST_PUBLISHED_TURNS, parameters)).scalars().all()
        return QueueEstimate(
            read_at=time.monotonic(),
            conditions=conditions,
            turns=[turn for turn in turns if turn is not None],
            is_paused=any((row.target, row.name) == ("queue", queue) for row in paused),
            paused_kinds=frozenset(row.name for row in paused if row.target == "kind"),
        )


def _bound(seconds: float) -> int:
    return max(LEAST_SECONDS, min(MOST_SECONDS, ceil(seconds)))
