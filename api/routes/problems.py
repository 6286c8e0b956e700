"""`GET /problems/<name>`: what each error type means, those of requests and those that tasks end with."""

from __future__ import annotations

from functools import cache
from typing import Annotated, Any, Final

import orjson
from fastapi import APIRouter, Query, Request, Response

from api.http.problems import PROBLEMS, Problem
from api.http.query_strings import NoQuery
from api.openapi.operations import json_response, problem_responses
from shared.contracts.catalog import list_kinds

router = APIRouter(tags=["problems"])

ATTEMPT_ERRORS: Final = {
    "cancelled": "A caller cancelled the task. `POST /tasks/<id>/retry` sends it back to its queue.",
    "expired": "The task, or its next attempt, was not started within its `ttl`. Retry it, or submit it again with a longer one.",
    "worker-lost": "The worker stopped responding in the middle of the work, in the last attempt that was left.",
    "timed-out": "The work took longer than one attempt may. Submit less at once, or allow a longer `timeout`.",
    "out-of-memory": "The work needed more memory than one task may use. Submit less at once.",
    "unreadable-params": "The stored params do not fit the kind any more. Submit the task again.",
}


@router.get(
    "/problems/{name}",
    summary="Explain an error type",
    responses={
        **json_response(200, "The explanation.", "Explanation"),
        **problem_responses(404, 422),
    },
)
async def explain_problem(request: Request, name: str, query: Annotated[NoQuery, Query()]) -> Response:
    """Give the explanation of a type."""
    explanation = explanations().get(name)
    if explanation is None:
        raise Problem("not-found", "There is no such problem type.")
    return Response(orjson.dumps(explanation), media_type="application/json")


@cache
def explanations() -> dict[str, dict[str, Any]]:
    """Give every type's explanation by name: the platform's, and those that kinds declare."""
    found: dict[str, dict[str, Any]] = {}
    for kind_name, kind in list_kinds().items():
        for name, meaning in kind.errors.items():
            known = found.setdefault(name, {**_explanation(name, meaning), "kinds": []})
            known["kinds"].append(kind_name)
    for name, meaning in ATTEMPT_ERRORS.items():
        found[name] = _explanation(name, meaning)
    for name, problem in PROBLEMS.items():
        found[name] = {**_explanation(name, problem.explanation), "title": problem.title, "status": problem.status}
    return found


def _explanation(name: str, meaning: str) -> dict[str, Any]:
    return {"type": f"/problems/{name}", "title": name.replace("-", " ").capitalize(), "explanation": meaning}
