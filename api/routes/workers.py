"""`GET /workers`: the worker processes and what they run, for operators."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from api.auth.caller import Caller
from api.dependencies import QueuesDependency, caller_with
from api.http.list_formats import ACCEPT, FORMAT_RESPONSES, answer_whole_list, columns_of
from api.http.query_strings import NoQuery
from api.http.rate_limits import limited
from api.openapi.operations import ANY_CALLER, problem_responses
from api.queues.queue_models import Worker, WorkerList
from shared.permissions import Permission

router = APIRouter(tags=["queues"])


@router.get(
    "/workers",
    summary="List the workers",
    responses={
        200: {"model": WorkerList, "description": "The worker processes.", "content": FORMAT_RESPONSES},
        **problem_responses(*ANY_CALLER, "not-acceptable"),
    },
    openapi_extra={"parameters": [ACCEPT]},
)
@limited("read")
async def list_workers(
    request: Request,
    caller: Annotated[Caller, caller_with(Permission.WORKERS_READ)],
    queues: QueuesDependency,
    query: Annotated[NoQuery, Query()],
) -> Response:
    """Return the worker processes, with their queues and the tasks that they run, to operators and admins.

    A process that stops leaves the list. One that was killed stays for a day, with `alive` false.
    """
    found = await queues.list_workers()
    return answer_whole_list(request, found, found.items, columns_of(Worker))
