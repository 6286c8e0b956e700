"""Reads workflows with their steps, as callers see them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncEngine

from api.auth.caller import Caller
from api.following.task_models import TaskError
from api.following.task_representation import hide_details
from api.http.problems import Problem
from api.workflows.workflow_models import (
    StepTasks,
    Workflow,
    WorkflowLinks,
    WorkflowStep,
    WorkflowSummary,
)
from shared.permissions import Permission
from shared.queries import workflows as queries
from shared.queries.tasks import find_live_task
from shared.tasks.states import TaskStatus


class WorkflowReader:
    """Reads workflows that a caller may see."""

    def __init__(self, reads: AsyncEngine) -> None:
        self._reads = reads

    async def require(self, workflow_id: UUID, caller: Caller) -> Workflow:
        """Return a workflow with its steps. Raises `not-found` or `gone`."""
        organization_id = caller.visible_organization_id
        async with self._reads.connect() as connection:
            row = (await connection.execute(queries.find_workflow(workflow_id, organization_id))).one_or_none()
            if row is None:
                tombstone = await connection.execute(queries.find_tombstone(workflow_id, organization_id))
                raise Problem("not-found" if tombstone.first() is None else "gone")
            steps = (await connection.execute(queries.list_steps([workflow_id]))).all()
        counts: dict[str, int] = defaultdict(int)
        for step in steps:
            counts[step.status] += 1
        shows_content = caller.has(Permission.TASKS_READ_CONTENT)
        return Workflow(**_summary(row, counts), steps=[_step(step, shows_content=shows_content) for step in steps])

    async def find_live_task(self, workflow_id: UUID) -> UUID | None:
        """Return a task of the workflow that is not done, or None if there is none."""
        async with self._reads.connect() as connection:
            return (await connection.execute(find_live_task(workflow_id=workflow_id))).scalar_one_or_none()

    async def list_page(
        self, caller: Caller, before: UUID | None, limit: int, status: Sequence[str] | None
    ) -> list[WorkflowSummary]:
        """Return workflows that the caller may see, newest first: those older than the workflow `before`."""
        async with self._reads.connect() as connection:
            statement = queries.list_workflows(caller.visible_organization_id, before, limit, status)
            rows = (await connection.execute(statement)).all()
            counted = (await connection.execute(queries.count_steps([row.id for row in rows]))).all()
        counts: dict[UUID, dict[str, int]] = defaultdict(dict)
        for group in counted:
            counts[group.workflow_id][group.status] = group.count
        return [WorkflowSummary(**_summary(row, counts[row.id])) for row in rows]


def _summary(row: Any, counts: dict[str, int]) -> dict[str, Any]:
    path = f"/workflows/{row.id}"
    return {
        "id": row.id,
        "name": row.name,
        "status": row.status,
        "done": row.finished_at is not None,
        "step_counts": dict(sorted(counts.items())),
        "schedule_id": row.schedule_id,
        "created_at": row.created_at,
        "cancel_requested_at": row.cancel_requested_at,
        "finished_at": row.finished_at,
        "links": WorkflowLinks(self=path, cancel=f"{path}/cancel", tasks=f"/tasks?workflow_id={row.id}"),
    }


def _step(row: Any, *, shows_content: bool) -> WorkflowStep:
    fans_out = row.for_each is not None
    counts = {TaskStatus(status): count for status, count in sorted((row.counts or {}).items())} if fans_out else {}
    own_status = TaskStatus.SCHEDULED if row.status == "waiting" else row.status
    return WorkflowStep(
        name=row.name,
        kind=row.kind,
        status=TaskStatus(row.task_status or own_status),
        after=row.after,
        on_failure=row.on_failure,
        for_each=row.for_each["written"] if fans_out else None,
        task_id=row.task_id,
        tasks=StepTasks(total=sum(counts.values()), counts=counts) if fans_out and row.started_at is not None else None,
        error=None if row.error is None else TaskError(**(row.error if shows_content else hide_details(row.error))),
        started_at=row.task_started_at or (row.started_at if fans_out else None),
        finished_at=row.task_finished_at
        or (row.last_finished_at if row.status not in {"waiting", "running"} else None),
    )
