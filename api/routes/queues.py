"""`/queues`: what waits and runs, for operators, who can also pause a queue."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from api.auth.caller import Caller
from api.dependencies import ActorDependency, NoBody, QueuesDependency, caller_with
from api.http.answers import private_answer
from api.http.list_formats import ACCEPT, FORMAT_RESPONSES, answer_whole_list, columns_of
from api.http.problems import Problem
from api.http.query_strings import NoQuery
from api.http.rate_limits import limited
from api.openapi.operations import ANY_CALLER, problem_responses
from api.queues.queue_models import QueueList, QueueState
from shared.contracts.kind import QUEUES
from shared.permissions import Permission

router = APIRouter(tags=["queues"])
QueueReaderCaller = Annotated[Caller, caller_with(Permission.QUEUES_READ)]
QueuePauserCaller = Annotated[Caller, caller_with(Permission.QUEUES_PAUSE)]


@router.get(
    "/queues",
    summary="List the queues",
    responses={
        200: {"model": QueueList, "description": "The queues.", "content": FORMAT_RESPONSES},
        **problem_responses(*ANY_CALLER, "not-acceptable"),
    },
    openapi_extra={"parameters": [ACCEPT]},
)
@limited("read")
async def list_queues(
    request: Request, caller: QueueReaderCaller, queues: QueuesDependency, query: Annotated[NoQuery, Query()]
) -> Response:
    """Return what waits and runs in each queue, and how fast, to operators and admins."""
    found = await queues.list_queues()
    return answer_whole_list(request, found, found.items, columns_of(QueueState))


@router.get(
    "/queues/{queue}",
    summary="Get a queue",
    response_model=QueueState,
    response_description="The queue.",
    responses=problem_responses(*ANY_CALLER, "not-found"),
)
@limited("read")
async def get_queue(
    request: Request,
    queue: str,
    caller: QueueReaderCaller,
    queues: QueuesDependency,
    query: Annotated[NoQuery, Query()],
) -> Response:
    """Return what waits and runs in a queue, and how fast, to operators and admins."""
    _require_queue(queue)
    return private_answer(await queues.get_queue(queue))


@router.post(
    "/queues/{queue}/pause",
    summary="Pause a queue",
    response_model=QueueState,
    response_description="The queue, which is paused.",
    responses=problem_responses(*ANY_CALLER, "not-found", "unsupported-media-type"),
)
@limited("submit")
async def pause_queue(
    request: Request,
    queue: str,
    caller: QueuePauserCaller,
    actor: ActorDependency,
    queues: QueuesDependency,
    query: Annotated[NoQuery, Query()],
    body: NoBody,
) -> Response:
    """Start no more tasks of a queue until it is resumed. Running attempts go on, and tasks are still accepted.

    Only operators and admins may pause. The pause is in force when this answers, and stays until it is ended by a person. A
    `ttl` still ends, so that a task may expire while it is paused.
    """
    _require_queue(queue)
    await queues.pause("queue", queue, caller.owner_id, actor)
    return private_answer(await queues.get_queue(queue))


@router.post(
    "/queues/{queue}/resume",
    summary="Resume a queue",
    response_model=QueueState,
    response_description="The queue, which is not paused.",
    responses=problem_responses(*ANY_CALLER, "not-found", "unsupported-media-type"),
)
@limited("submit")
async def resume_queue(
    request: Request,
    queue: str,
    caller: QueuePauserCaller,
    actor: ActorDependency,
    queues: QueuesDependency,
    query: Annotated[NoQuery, Query()],
    body: NoBody,
) -> Response:
    """Start tasks of a queue again. A kind that is paused stays paused."""
    _require_queue(queue)
    await queues.resume("queue", queue, actor)
    return private_answer(await queues.get_queue(queue))


def _require_queue(name: str) -> None:
    if name not in QUEUES:
        raise Problem("not-found", f"There is no such queue. The queues are: {', '.join(QUEUES)}.")
