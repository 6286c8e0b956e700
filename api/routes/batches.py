"""`/batches`: the state of a batch, and cancelling its tasks."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Final
from uuid import UUID

from fastapi import APIRouter, Query, Request, Response
from sqlalchemy.ext.asyncio import AsyncEngine

from api.auth.caller import Caller
from api.dependencies import (
    ActorDependency,
    NoBody,
    OpenStreamsDependency,
    ReadsDependency,
    StreamsDependency,
    TaskActionsDependency,
    TaskActorCaller,
    TaskReaderCaller,
    WaitersDependency,
    is_allowed,
)
from api.following.batch_states import batch_state
from api.following.task_models import BatchFollowUp, BatchState
from api.following.waiting_requests import wait_for_all
from api.http.answers import PRIVATE_HEADERS, private_answer
from api.http.problems import Problem
from api.http.query_strings import NoQuery, StrictQuery, WaitForAllQuery
from api.http.rate_limits import limited
from api.openapi.operations import (
    ANY_CALLER,
    LAST_EVENT_ID,
    LAST_EVENT_ID_HEADER,
    PREFER,
    problem_responses,
    stream_response,
)
from api.openapi.submission_schemas import ref
from api.streaming.streams import EventStreamResponse, LastEventId
from shared.permissions import Permission
from shared.queries import batches as queries
from shared.queries.tasks import find_live_task

router = APIRouter(tags=["batches"])


@router.get(
    "/batches/{batch_id}",
    summary="Get the state of a batch",
    response_model=BatchState,
    response_description="The batch.",
    responses=problem_responses(*ANY_CALLER, "not-found"),
    openapi_extra={"parameters": [PREFER]},
)
@limited("read")
async def get_batch(
    request: Request,
    batch_id: UUID,
    caller: TaskReaderCaller,
    reads: ReadsDependency,
    waiters: WaitersDependency,
    query: Annotated[WaitForAllQuery, Query()],
) -> Response:
    """Return how many of the batch's tasks have each status. With `wait`, the answer comes once all of them are done."""
    batch = await _count(reads, caller, batch_id)

    async def find_live() -> UUID | None:
        async with reads.connect() as connection:
            return (await connection.execute(find_live_task(batch_id=batch_id))).scalar_one_or_none()

    has_waited, headers = await wait_for_all(request, waiters, caller, find_live, done=batch.finished_at is not None)
    return private_answer(await _count(reads, caller, batch_id) if has_waited else batch, headers=headers)


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
    caller: TaskActorCaller,
    reads: ReadsDependency,
    actor: ActorDependency,
    actions: TaskActionsDependency,
    query: Annotated[NoQuery, Query()],
    body: NoBody,
) -> Response:
    """Cancel the tasks of the batch that are not done."""
    await _count(reads, caller, batch_id)
    await actions.cancel_batch(batch_id, caller, actor)
    return private_answer(await _count(reads, caller, batch_id), 202)


async def _count(reads: AsyncEngine, caller: Caller, batch_id: UUID) -> BatchState:
    """Count a batch's tasks by status. Raises `not-found` unless the caller may see the batch."""
    async with reads.connect() as connection:
        statement = queries.count_batch(batch_id, caller.visible_organization_id)
        rows = (await connection.execute(statement)).all()
        follow_up = (await connection.execute(queries.find_follow_up(batch_id))).one_or_none()
    if not rows:
        raise Problem("not-found")
    state = batch_state(batch_id, rows)
    if follow_up is None:
        return state
    return state.model_copy(update={"on_finished": BatchFollowUp(kind=follow_up.kind, task_id=follow_up.task_id)})


STREAMED_COUNTS: Final = {
    "type": "object",
    "description": "One server-sent event.",
    "properties": {
        "id": {
            "type": "string",
            "description": "The version of the batch, which rises with every change of its tasks.",
        },
        "event": {"const": "counts"},
        "data": {
            "type": "string",
            "contentMediaType": "application/json",
            "contentSchema": ref("BatchState"),
            "description": "The batch, as `GET /batches/<id>` returns it, without `on_finished`.",
        },
    },
    "required": ["id", "event", "data"],
}


class BatchEventsQuery(StrictQuery):
    """The message after which a stream begins."""

    last_event_id: LAST_EVENT_ID = None


@router.get(
    "/batches/{batch_id}/events",
    summary="Stream the counts of a batch",
    response_class=Response,
    responses={
        **stream_response(
            STREAMED_COUNTS,
            "Server-sent events: the counts now, and again whenever they have changed, at most five times a second. The stream "
            "ends when all tasks are done.",
        ),
        204: {"description": "All tasks are done, and the counts are those of the `Last-Event-ID`."},
        **problem_responses(*ANY_CALLER, "not-found"),
    },
    openapi_extra=LAST_EVENT_ID_HEADER,
)
@limited("read")
async def stream_batch(
    request: Request,
    batch_id: UUID,
    caller: TaskReaderCaller,
    streams: StreamsDependency,
    open_streams: OpenStreamsDependency,
    query: Annotated[BatchEventsQuery, Query()],
) -> Response:
    """Return how many of the batch's tasks have each status, whenever that changes, as server-sent events."""
    last_id = LastEventId.find(request, query.last_event_id)
    stream = await streams.open_batch(batch_id, caller, last_id)
    if stream is None:
        return Response(status_code=204, headers=dict(PRIVATE_HEADERS))
    return EventStreamResponse(stream, caller, open_streams, partial(is_allowed, request, Permission.TASKS_READ))
