"""`/health`: whether this process works; `/health/ready`: whether the parts that it depends on work."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request, Response

from api.dependencies import ReadinessDependency
from api.http.answers import AnswerModel
from api.http.query_strings import NoQuery
from api.openapi.operations import problem_responses
from api.readiness import Readiness

router = APIRouter(tags=["health"])


class Life(AnswerModel):
    """The process answers requests."""

    status: Literal["ok"]


@router.get(
    "/health",
    summary="Check that the process answers",
    response_model=Life,
    response_description="The process answers requests.",
    responses=problem_responses("validation"),
)
async def get_health(request: Request, query: Annotated[NoQuery, Query()]) -> Response:
    """Return 200 as long as the process runs. Neither the database nor the broker is checked."""
    return _answer(200, Life(status="ok"))


@router.get(
    "/health/ready",
    summary="Check that submissions can be accepted",
    response_model=Readiness,
    response_description="Submissions are accepted. If the status is `degraded`, a check of another part failed.",
    responses={
        503: {"model": Readiness, "description": "The database or the storage failed its check."},
        **problem_responses("validation"),
    },
)
async def get_readiness(
    request: Request, readiness: ReadinessDependency, query: Annotated[NoQuery, Query()]
) -> Response:
    """Check each part that the API depends on. Returns 503 when the database or the storage fails.

    A database that is not migrated fails, too. While the broker is away, while the relay, the sweeper or beat shows no sign
    of life, or while a queue is late, submissions are still accepted, and their work is delayed. Checks are at most 2 seconds
    old.
    """
    outcome = await readiness.check()
    return _answer(503 if outcome.status == "unavailable" else 200, outcome)


def _answer(status: int, answer: Life | Readiness) -> Response:
    body = answer.model_dump_json(exclude_unset=True)
    return Response(body, status, {"Cache-Control": "no-store"}, media_type="application/json")
