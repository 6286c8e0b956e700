"""Reads what waits and runs in queues, which workers there are, and what is paused.

Counting a backlog of a million tasks takes half a second. A reading that took long is used again for ten times as long, so that
counting never takes more than about a tenth of one connection's time. An ordinary backlog is counted for each request.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final, Literal, NamedTuple
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from api.auditing.entries import write_entry
from api.queues.queue_models import KindPause, PausedKind, QueueList, QueueState, RunningTask, Worker, WorkerList
from shared.audit.actions import AuditAction
from shared.audit.entries import Actor, Entry
from shared.contracts.kind import QUEUES
from shared.queries import pauses, publishing, queues
from shared.queries.hot_tasks import DUE_CHANNEL
from shared.queries.schedules import NOW

Target = Literal["queue", "kind"]
"""What can be paused."""
SLOW_SECONDS: Final = 0.1
"""How long a reading of counts takes at least for its counts to be used again."""
COUNTS_CACHE_FACTOR: Final = 10
"""For how many times the duration of such a reading its counts are used."""
MAX_RUNNING_LISTED: Final = 5000


class QueueConditions(NamedTuple):
    """What decides when tasks of a queue start: its workers, and how many attempts start each second."""

    workers: int
    slots: int
    has_unknown_workers: bool
    """Whether workers of an older version run, which may take tasks of this queue too."""
    running: int
    started_each_second: float | None
    """None if nothing started in the last minute."""

    def predict_seconds(self, ahead: int) -> float | None:
        """Return in how many seconds a task starts that has so many tasks ahead of it, or None if that is not known."""
        if self.workers and ahead < self.slots - self.running:
            return 0.0
        if not self.started_each_second:
            return None
        return (ahead + 1) / self.started_each_second


class _Counts(NamedTuple):
    waiting: Mapping[str, Any]
    scheduled: Mapping[str, Any]


class QueueReader:
    """Reads and pauses queues."""

    def __init__(self, engine: AsyncEngine, reads: AsyncEngine) -> None:
        self._engine = engine
        self._reads = reads
        self._counting = asyncio.Lock()
        self._counts: _Counts | None = None
        self._counts_expire_at = float("-inf")

    async def list_queues(self) -> QueueList:
        """Return the state of every queue, and the paused kinds."""
        async with self._reads.connect() as connection:
            paused = (await connection.exec_driver_sql(pauses.LIST_PAUSES)).all()
            counts = await self._count(connection)
            conditions = await self.read_conditions(connection)
            activity = {row.queue: row for row in await connection.exec_driver_sql(queues.READ_ACTIVITY)}
            now = (await connection.execute(NOW)).scalar_one()
        paused_since = {row.name: row.since for row in paused if row.target == "queue"}
        return QueueList(
            items=[
                _describe(name, paused_since.get(name), counts, conditions[name], activity.get(name), now)
                for name in QUEUES
            ],
            paused_kinds=[PausedKind(kind=row.name, since=row.since) for row in paused if row.target == "kind"],
        )

    async def get_queue(self, name: str) -> QueueState:
        """Return the state of one queue."""
        return next(queue for queue in (await self.list_queues()).items if queue.name == name)

    async def read_kind_pause(self, kind: str) -> KindPause:
        """Return whether a kind is paused."""
        async with self._reads.connect() as connection:
            rows = (await connection.exec_driver_sql(pauses.LIST_PAUSES)).all()
        since = next((row.since for row in rows if (row.target, row.name) == ("kind", kind)), None)
        return KindPause(kind=kind, paused=since is not None, paused_since=since)

    async def pause(self, target: Target, name: str, caller_id: UUID, actor: Actor) -> None:
        """Pause a queue or a kind. No worker can claim its tasks any more when this returns."""
        affected = [name] if target == "queue" else list(QUEUES)
        async with self._engine.begin() as connection:
            await connection.exec_driver_sql(pauses.COUNT_AS_PUBLICATION, {"queues": affected})
            parameters = {"target": target, "name": name, "caller_id": caller_id}
            if (await connection.exec_driver_sql(pauses.PAUSE, parameters)).rowcount:
                action = AuditAction.QUEUE_PAUSED if target == "queue" else AuditAction.KIND_PAUSED
                await write_entry(connection, Entry(actor, action, name, None))
            unmarked = {"queues": affected, "kind": name if target == "kind" else None}
            await connection.exec_driver_sql(pauses.UNMARK_PAUSED, unmarked)

    async def resume(self, target: Target, name: str, actor: Actor) -> None:
        """Resume a queue or a kind, and notify the relay, which publishes its tasks at once."""
        async with self._engine.begin() as connection:
            if (await connection.exec_driver_sql(pauses.RESUME, {"target": target, "name": name})).rowcount:
                action = AuditAction.QUEUE_RESUMED if target == "queue" else AuditAction.KIND_RESUMED
                await write_entry(connection, Entry(actor, action, name, None))
            notice = {"channel": DUE_CHANNEL, "queues": name if target == "queue" else ",".join(QUEUES)}
            await connection.exec_driver_sql(publishing.NOTIFY, notice)

    async def list_workers(self) -> WorkerList:
        """Return the worker processes, each with the tasks that it runs."""
        async with self._reads.connect() as connection:
            workers = (await connection.exec_driver_sql(queues.LIST_WORKERS)).all()
            rows = await connection.exec_driver_sql(queues.LIST_RUNNING, {"limit": MAX_RUNNING_LISTED})
        running: defaultdict[str, list[RunningTask]] = defaultdict(list)
        for row in rows:
            task = RunningTask(task_id=row.id, kind=row.kind, queue=row.queue, started_at=row.started_at)
            running[row.worker or ""].append(task)
        return WorkerList(
            items=[
                Worker(
                    name=row.name,
                    host=row.name.rpartition("@")[2],
                    alive=row.is_alive,
                    last_sign_of_life_at=row.at,
                    since=row.since,
                    version=row.version,
                    queues=row.queues,
                    slots=row.slots,
                    busy=len(running[row.name]),
                    running=running[row.name],
                )
                for row in workers
            ]
        )

    async def read_conditions(self, connection: AsyncConnection) -> dict[str, QueueConditions]:
        """Return the conditions of every queue."""
        workers = (await connection.exec_driver_sql(queues.LIST_WORKERS)).all()
        alive = [row for row in workers if row.is_alive]
        running = {row.queue: row.tasks for row in await connection.exec_driver_sql(queues.COUNT_RUNNING)}
        rates = {row.queue: row.started_each_second for row in await connection.exec_driver_sql(queues.READ_RATES)}
        return {name: _find_conditions(name, alive, running.get(name, 0), rates.get(name)) for name in QUEUES}

    async def _count(self, connection: AsyncConnection) -> _Counts:
        async with self._counting:
            if self._counts is None or time.monotonic() >= self._counts_expire_at:
                started = time.monotonic()
                waiting = await connection.exec_driver_sql(queues.COUNT_WAITING)
                scheduled = await connection.exec_driver_sql(queues.COUNT_SCHEDULED)
                self._counts = _Counts({row.queue: row for row in waiting}, {row.queue: row for row in scheduled})
                now = time.monotonic()
                is_slow = now - started >= SLOW_SECONDS
                self._counts_expire_at = now + (COUNTS_CACHE_FACTOR * (now - started) if is_slow else 0)
            return self._counts


def _find_conditions(name: str, alive: Sequence[Any], running: int, rate: float | None) -> QueueConditions:
    workers = [row for row in alive if row.queues is not None and name in row.queues]
    return QueueConditions(
        workers=len(workers),
        slots=sum(row.slots for row in workers),
        has_unknown_workers=any(row.queues is None for row in alive),
        running=running,
        started_each_second=rate,
    )


def _describe(
    name: str,
    paused_since: datetime | None,
    counts: _Counts,
    conditions: QueueConditions,
    activity: Any,
    now: datetime,
) -> QueueState:
    waiting, scheduled = counts.waiting.get(name), counts.scheduled.get(name)
    depth = waiting.tasks if waiting is not None else 0
    wait_seconds = None
    if paused_since is None and (conditions.workers or conditions.has_unknown_workers):
        wait_seconds = conditions.predict_seconds(max(0, depth - 1))
    return QueueState(
        name=name,
        paused=paused_since is not None,
        paused_since=paused_since,
        depth=depth,
        scheduled=scheduled.scheduled if scheduled is not None else 0,
        retrying=scheduled.retrying if scheduled is not None else 0,
        running=conditions.running,
        oldest_age_seconds=None if waiting is None else max(0.0, round((now - waiting.oldest).total_seconds(), 3)),
        started_last_minute=activity.started_last_minute if activity is not None else 0,
        started_last_hour=activity.started_last_hour if activity is not None else 0,
        ended_last_minute=activity.ended_last_minute if activity is not None else 0,
        ended_last_hour=activity.ended_last_hour if activity is not None else 0,
        workers=conditions.workers,
        slots=conditions.slots,
        predicted_wait_seconds=None if wait_seconds is None else round(wait_seconds, 1),
    )
