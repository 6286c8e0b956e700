"""`/kinds`: the kinds that the caller may submit, which operators can pause."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from pydantic import Field

from api.auth.caller import Caller
from api.dependencies import ActorDependency, NoBody, QueuesDependency, caller_with
from api.http.answers import AnswerModel, private_answer
from api.http.problems import Problem
from api.http.query_strings import NoQuery
from api.http.rate_limits import limited
from api.openapi.operations import ANY_CALLER, problem_responses
from api.openapi.submission_schemas import kind_schemas
from api.queues.queue_models import KindPause
from shared.contracts.catalog import find_kind, list_kinds
from shared.permissions import Permission
from shared.queries.canaries import CANARY_KIND

router = APIRouter(tags=["kinds"])
KindPauserCaller = Annotated[Caller, caller_with(Permission.KINDS_PAUSE)]


class KindDescription(AnswerModel):
    """A kind: its description, limits, and the schemas of its params and result."""

    kind: Annotated[str, Field(examples=["files.make_images"])]
    queue: Annotated[str, Field(description="The queue of its tasks, unless their params choose another.")]
    title: str
    description: str
    params_schema: Annotated[dict[str, Any], Field(description="The JSON Schema of its params.")]
    result_schema: Annotated[dict[str, Any], Field(description="The JSON Schema of its result.")]
    max_attempts: Annotated[int, Field(ge=1)]
    timeout: Annotated[int, Field(ge=1, description="How many seconds one attempt may take at most.")]
    available: Annotated[bool, Field(description="Whether tasks of the kind can run now.")]
    reason: Annotated[str | None, Field(description="Why not, if it is not available.")]


class Kinds(AnswerModel):
    """Every kind that the caller may submit."""

    items: list[KindDescription]


@router.get(
    "/kinds",
    name="list_kinds",
    summary="List the kinds that the caller may submit",
    response_model=Kinds,
    response_description="The kinds.",
    responses=problem_responses(*ANY_CALLER),
)
@limited("read")
async def list_submittable_kinds(
    request: Request, caller: Annotated[Caller, caller_with(Permission.KINDS_READ)], query: Annotated[NoQuery, Query()]
) -> Response:
    """Return each kind with the JSON Schemas of its params and its result."""
    schemas = kind_schemas()
    return private_answer(
        Kinds(
            items=[
                KindDescription(
                    kind=name,
                    queue=kind.default_queue,
                    title=kind.title,
                    description=kind.description,
                    params_schema=schemas[name].params,
                    result_schema=schemas[name].result,
                    max_attempts=kind.max_attempts,
                    timeout=kind.timeout_seconds,
                    available=True,
                    reason=None,
                )
                for name, kind in list_kinds().items()
                if kind.public and (not kind.privileged or caller.has(Permission.TASKS_SUBMIT_PLATFORM_KINDS))
            ]
        )
    )


@router.post(
    "/kinds/{kind}/pause",
    summary="Pause a kind",
    response_model=KindPause,
    response_description="The kind, which is paused.",
    responses=problem_responses(*ANY_CALLER, "not-found", "conflict", "unsupported-media-type"),
)
@limited("submit")
async def pause_kind(
    request: Request,
    kind: str,
    caller: KindPauserCaller,
    actor: ActorDependency,
    queues: QueuesDependency,
    query: Annotated[NoQuery, Query()],
    body: NoBody,
) -> Response:
    """Start no more tasks of a kind, in whichever queue, until it is resumed. Other kinds of its queue go on.

    Otherwise as for a queue.
    """
    _require_kind(kind)
    if kind == CANARY_KIND:
        raise Problem(
            "conflict", "Canaries show that queues work and cannot be paused. Disable their schedules to stop them."
        )
    await queues.pause("kind", kind, caller.owner_id, actor)
    return private_answer(await queues.read_kind_pause(kind))


@router.post(
    "/kinds/{kind}/resume",
    summary="Resume a kind",
    response_model=KindPause,
    response_description="The kind, which is not paused.",
    responses=problem_responses(*ANY_CALLER, "not-found", "unsupported-media-type"),
)
@limited("submit")
async def resume_kind(
    request: Request,
    kind: str,
    caller: KindPauserCaller,
    actor: ActorDependency,
    queues: QueuesDependency,
    query: Annotated[NoQuery, Query()],
    body: NoBody,
) -> Response:
    """Start tasks of a kind again. A queue that is paused stays paused."""
    _require_kind(kind)
    await queues.resume("kind", kind, actor)
    return private_answer(await queues.read_kind_pause(kind))


def _require_kind(name: str) -> None:
    if find_kind(name) is None:
        raise Problem("not-found", "There is no such kind. `GET /kinds` lists those that callers may submit.")
