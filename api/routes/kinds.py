"""`GET /kinds`: the kinds that the caller may submit."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from pydantic import Field

from api.dependencies import TaskReaderCaller
from api.http.answers import AnswerModel, private_answer
from api.http.query_strings import NoQuery
from api.http.rate_limits import limited
from api.openapi.operations import ANY_CALLER, problem_responses
from api.openapi.submission_schemas import kind_schemas
from shared.contracts.catalog import list_kinds

router = APIRouter(tags=["kinds"])


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
    request: Request, caller: TaskReaderCaller, query: Annotated[NoQuery, Query()]
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
                if kind.public and (caller.privileged or not kind.privileged)
            ]
        )
    )
