"""Finds why a task waits, and when it will start.

The reasons, in the order in which they are looked for:

- `upstream`: it is a step of a workflow, and steps before it are not done
- `scheduled`: its `run_at` is not reached
- `retry_backoff`: an attempt failed, and the next one comes later
- `paused`: its queue or its kind is paused
- `caller_limit`: a limit of its key (`concurrency`, `rate`) is reached, or what its caller or organization may run at once runs
- `no_worker`: no running worker takes tasks of its queue
- `behind`: other tasks are claimed before it, or it is next
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Annotated, Any, Final, Literal
from uuid import UUID

from pydantic import Field
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from api.http.answers import AnswerModel, Moment
from api.queues.queue_reader import QueueReader
from shared.queries import waiting as queries
from shared.settings import Settings
from shared.tasks.states import TaskStatus

MAX_COUNTED_AHEAD: Final = 10_000
"""How many tasks ahead of a task are counted at most."""
MAX_PAIRS: Final = 2_000
"""How many pairs of a kind and a caller with due tasks are looked at."""

Reason = Literal["scheduled", "behind", "no_worker", "retry_backoff", "caller_limit", "paused", "upstream"]


class Waiting(AnswerModel):
    """Why a task waits. Fields that are not known, or do not apply, are null."""

    status: TaskStatus
    reason: Annotated[
        Reason | None,
        Field(
            description="`scheduled`: its `run_at` is not reached. `behind`: other tasks start first, or it is next. "
            "`no_worker`: no running worker takes tasks of its queue. `retry_backoff`: its last attempt failed, and the next "
            "one comes later. `paused`: an operator paused its queue or its kind. `upstream`: it waits for other steps of its "
            "workflow. `caller_limit`: its `concurrency` or `rate` has no room, or as many tasks run as its caller or organization "
            "may run at once. Null if it is running or done."
        ),
    ]
    position: Annotated[
        int | None,
        Field(ge=1, description=f"Its place among the tasks of its queue; null beyond {MAX_COUNTED_AHEAD:,}."),
    ]
    ahead: Annotated[
        int | None,
        Field(
            ge=0,
            description=f"About how many tasks of its queue start before it; null if more than {MAX_COUNTED_AHEAD:,}.",
        ),
    ]
    estimated_start_at: Annotated[
        Moment | None,
        Field(
            description="When it starts if it is only waiting for that time, or at the rate at which tasks of its queue started "
            "in the last minute. Other callers' tasks may come between."
        ),
    ]
    since: Annotated[Moment | None, Field(description="Since when it waits for this reason.")]


class WaitingReader:
    """Finds why tasks wait."""

    def __init__(self, settings: Settings, reads: AsyncEngine, queues: QueueReader) -> None:
        self._window = settings.window
        self._reads = reads
        self._queues = queues

    async def find(self, task_id: UUID, organization_id: UUID | None) -> Waiting | None:
        """Return why a task waits, or None if it does not exist or belongs to another organization than the one given."""
        async with self._reads.connect() as connection:
            parameters = {"id": task_id, "organization": organization_id}
            row = (await connection.exec_driver_sql(queries.READ_WAITING, parameters)).first()
            if row is None:
                return None
            if row.status != "queued":
                return _explain_other(row)
            if row.paused_since is not None:
                return _explain(row, "paused", since=max(row.paused_since, row.changed_at))
            if row.blocked_at is not None or row.is_limited:
                return _explain(row, "caller_limit", since=row.blocked_at)
            conditions = (await self._queues.read_conditions(connection))[row.queue]
            ahead = await self._count_ahead(connection, task_id, row)
        seconds = None if ahead is None else conditions.predict_seconds(ahead)
        if not conditions.workers and not conditions.has_unknown_workers:
            return _explain(row, "no_worker", ahead=ahead)
        start_at = None if seconds is None else row.now + timedelta(seconds=seconds)
        return _explain(row, "behind", ahead=ahead, start_at=start_at)

    async def _count_ahead(self, connection: AsyncConnection, task_id: UUID, row: Any) -> int | None:
        """Return how many tasks are claimed before a queued one, or None if there are too many to count."""
        parameters = {"queue": row.queue, "turn": row.turn, "id": task_id, "limit": MAX_COUNTED_AHEAD + 1}
        if row.is_published:
            if row.turn is None:
                # A relay of an older version published it: those come first, in the order of their ids.
                return None
            found = (await connection.exec_driver_sql(queries.COUNT_AHEAD_OF_PUBLISHED, parameters)).one()
            is_unknown = False
        else:
            parameters |= {
                "owner": row.owner_id,
                "priority": row.priority,
                "window": self._window,
                "pairs": MAX_PAIRS,
            }
            found = (await connection.exec_driver_sql(queries.COUNT_AHEAD_OF_DUE, parameters)).one()
            is_unknown = found.is_unknown
        return None if is_unknown or found.tasks > MAX_COUNTED_AHEAD else int(found.tasks)


def _explain_other(row: Any) -> Waiting:
    """Return why a task waits that is not queued."""
    if row.status == "scheduled":
        if row.run_at is None:
            return _explain(row, "upstream")
        return _explain(row, "scheduled", start_at=max(row.run_at, row.now))
    if row.status == "retrying":
        return _explain(row, "retry_backoff", start_at=max(row.next_attempt_at, row.now))
    return Waiting(status=row.status, reason=None, position=None, ahead=None, estimated_start_at=None, since=None)


def _explain(
    row: Any,
    reason: Reason,
    *,
    ahead: int | None = None,
    start_at: datetime | None = None,
    since: datetime | None = None,
) -> Waiting:
    return Waiting(
        status=row.status,
        reason=reason,
        position=None if ahead is None else ahead + 1,
        ahead=ahead,
        estimated_start_at=start_at,
        since=since or row.changed_at,
    )
