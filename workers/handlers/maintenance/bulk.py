"""Cancels, retries or deletes many tasks in small steps, each in a transaction that also stores how far the action is.

A step commits only while the attempt holds its claim, so that no task is taken twice: an attempt after a lost one goes on
after the last task of the last committed step. Tasks are taken in the order of their ids, each of them once.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from shared import kill_points
from shared.contracts.maintenance.bulk import BulkParams, BulkResult
from shared.queries import bulk_actions as queries
from shared.queries.tasks import list_next, list_stored
from shared.tasks.actions import Changes, apply_action, lock_tasks
from workers.handler_context import HandlerContext

STEP_TASKS: Final = 200
"""How many tasks one transaction changes. It also locks the row of this task, so it must be much shorter than a lease."""
STEP_SECONDS: Final = 0.5
"""How often a step is taken, if the tasks are spread over time."""
SLICE_SECONDS: Final = 30.0
"""How long an attempt lasts before others have its slot: an action may last for hours, and another caller's waits behind it."""
BUSY_SECONDS: Final = 0.05
"""How long to wait for a task that another transaction has locked."""


@dataclass
class _Progress:
    """How far the action is."""

    last_id: UUID | None
    changed: int
    refused: Counter[str]
    tried: int


def handle(params: BulkParams, context: HandlerContext) -> BulkResult:
    """Take the tasks that fit the filter, step by step, until there are no more."""
    with context.fenced_transaction() as connection:
        connection.execute(queries.begin_action(context.task_id))
        row = connection.execute(queries.find_action(context.task_id)).one()
    refused = Counter(row.refused)
    progress = _Progress(row.last_id, row.changed, refused, row.changed + refused.total())
    began, tried_before = time.monotonic(), progress.tried
    while ids := _list_next(params, context, progress.last_id):
        _take_step(params, context, ids, progress)
        kill_points.reach("after-bulk-step")
        _report(params, context, progress)
        if params.per_second is not None:
            due_in = began + (progress.tried - tried_before) / params.per_second - time.monotonic()
            context.sleep(max(0.0, due_in))
        context.check()
        if time.monotonic() - began > SLICE_SECONDS:
            context.requeue()
    context.progress(100, f"{progress.tried:,} tasks")
    return BulkResult(changed=progress.changed, refused=dict(progress.refused))


def _list_next(params: BulkParams, context: HandlerContext, last_id: UUID | None) -> Sequence[UUID]:
    limit = STEP_TASKS
    if params.per_second is not None:
        limit = min(limit, max(1, int(params.per_second * STEP_SECONDS)))
    with context.engine.begin() as connection:
        connection.exec_driver_sql(queries.ALLOW_LONG_READ)
        statement = list_next(params.organization_id, params.filter, context.task_id, last_id, limit)
        return connection.execute(statement).scalars().all()


def _take_step(params: BulkParams, context: HandlerContext, ids: Sequence[UUID], progress: _Progress) -> None:
    """Take some of the tasks, at least the first one, and store how far the action is."""
    while True:
        with context.fenced_transaction() as connection:
            # Waiting for a row that another transaction has locked, while this one has locked the row of this task, could be
            # a deadlock: that transaction may be a heartbeat, which locks the rows of several tasks.
            rows = lock_tasks(connection, ids, skip_locked=True)
            missing = set(ids).difference(row.id for row in rows)
            busy = set(connection.execute(list_stored(list(missing))).scalars()) if missing else set()
            taken = next((ids[:place] for place, task_id in enumerate(ids) if task_id in busy), ids)
            if taken:
                wanted = set(taken)
                changes = apply_action(
                    params.action,
                    connection,
                    [row for row in rows if row.id in wanted],
                    privileged=params.organization_id is None,
                )
                _count(changes, len(taken), taken[-1], progress)
                connection.execute(queries.store_step(context.task_id, taken[-1], progress.changed, progress.refused))
        if taken:
            break
        context.sleep(BUSY_SECONDS)
    if changes.storage_keys:
        context.store.delete(changes.storage_keys)
    context.wake(changes.changed)


def _count(changes: Changes, tried: int, last_id: UUID, progress: _Progress) -> None:
    progress.last_id = last_id
    progress.tried += tried
    progress.changed += len(changes.changed)
    progress.refused.update(refusal.problem for refusal in changes.refused.values())


def _report(params: BulkParams, context: HandlerContext, progress: _Progress) -> None:
    if params.count:
        percent = min(99, progress.tried * 100 // params.count)
        context.progress(percent, f"{progress.tried:,} of {params.count:,}")
    else:
        context.progress(0, f"{progress.tried:,} tasks")
