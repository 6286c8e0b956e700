"""`/batches`: the state of a batch, and cancelling its tasks."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query, Request, Response
from sqlalchemy.ext.asyncio import AsyncEngine

from api.auth.authentication import Caller
from api.dependencies import NoBody, ReadsDependency, TaskActionsDependency, TaskReaderCaller, TaskWriterCaller
from api.following.task_models import BatchFollowUp, BatchState
from api.http.answers import private_answer
from api.http.problems import Problem
from api.http.query_strings import NoQuery
from api.http.rate_limits import limited
from api.openapi.operations import ANY_CALLER, problem_responses
from shared.queries import batches as queries
from shared.tasks.states import LIVE, TaskStatus

router = APIRouter(tags=["batches"])


@router.get(
    "/batches/{batch_id}",
    summary="Get the state of a batch",
    response_model=BatchState,
    response_description="The batch.",
    responses=problem_responses(*ANY_CALLER, "not-found"),
)
@limited("read")
async def get_batch(
    request: Request,
    batch_id: UUID,
    caller: TaskReaderCaller,
    reads: ReadsDependency,
    query: Annotated[NoQuery, Query()],
) -> Response:
    """Return how many of the batch's tasks have each status."""
    return private_answer(await _count(reads, caller, batch_id))


@router.post(
    "/batches/{batch_id}/cancel",
    status_code=202,
    summary="Cancel the tasks of a batch that are not done",
    response_model=BatchState,
    response_description="The batch.",
    responses=problem_responses(*ANY_CALLER, "not-found", "unsupported-media-type"),
)
@limited("submit")
async def cancel_batch(
    request: Request,
    batch_id: UUID,
    caller: TaskWriterCaller,
    reads: ReadsDependency,
    actions: TaskActionsDependency,
    query: Annotated[NoQuery, Query()],
    body: NoBody,
) -> Response:
    """Cancel the tasks of the batch that are not done."""
    await _count(reads, caller, batch_id)
    await actions.cancel_batch(batch_id)
    return private_answer(await _count(reads, caller, batch_id), 202)


async def _count(reads: AsyncEngine, caller: Caller, batch_id: UUID) -> BatchState:
    """Count a batch's tasks by status. Raises `not-found` unless the caller may see the batch."""
    async with reads.connect() as connection:
        statement = queries.count_batch(batch_id, caller.visible_organization_id)
        rows = (await connection.execute(statement)).all()
        follow_up = (await connection.execute(queries.find_follow_up(batch_id))).one_or_none()
    if not rows:
        raise Problem("not-found")
    is_live = any(row.status in LIVE for row in rows)
    return BatchState(
        id=batch_id,
        total=sum(row.count for row in rows),
        counts={TaskStatus(row.status): row.count for row in rows},
        created_at=min(row.created_at for row in rows),
        finished_at=None if is_live else max(row.finished_at for row in rows),
        **({"on_finished": BatchFollowUp(kind=follow_up.kind, task_id=follow_up.task_id)} if follow_up else {}),
    )
