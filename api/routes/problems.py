"""`GET /problems/<name>`: explains the errors of requests and of tasks."""

from __future__ import annotations

from functools import cache
from typing import Annotated, Final

from fastapi import APIRouter, Query, Request
from pydantic import Field

from api.http.answers import AnswerModel, Path
from api.http.problems import PROBLEMS, Problem
from api.http.query_strings import NoQuery
from api.openapi.operations import problem_responses
from shared.contracts.catalog import list_kinds

router = APIRouter(tags=["problems"])

ATTEMPT_ERRORS: Final = {
    "cancelled": "A caller cancelled the task. `POST /tasks/<id>/retry` sends it back to its queue.",
    "expired": "The task, or its next attempt, was not started within its `ttl`. Retry it, or submit it again with a longer one.",
    "upstream-failed": "A step of a workflow was not started, because a step before it did not succeed. Retry that step: this "
    "one starts when it has succeeded.",
    "unresolved-reference": "The params of a workflow's step refer to a value that the steps before it did not make. Retry the "
    "step that should make it, or submit the workflow again with another reference.",
    "quota-exceeded": "The tasks of a workflow's step were not submitted, because a quota of the caller or of its organization was "
    "used up. `GET /usage` shows which. Retry the step when there is room again.",
    "worker-lost": "The worker stopped responding in the middle of the work, in the last attempt that was left.",
    "timed-out": "The work took longer than one attempt may. Submit less at once, or allow a longer `timeout`.",
    "out-of-memory": "The work needed more memory than one task may use. Submit less at once.",
    "unknown-time-zone": "Beat has no data of a schedule's time zone. Update the package tzdata where it runs, or "
    "change the time zone.",
    "unknown-kind": "The kind of a schedule's task does not exist any more. Change the schedule, or delete it.",
    "unreadable-secret": "A secret of the params cannot be decrypted: the key that encrypted it is not among "
    "`TASKMILL_ENCRYPTION_KEYS` of the worker. Add it, then retry the task.",
    "unreadable-params": "The stored params do not fit the kind any more, or those of a workflow's step do not with the values of "
    "earlier steps. Submit the task or workflow again, or change the schedule.",
}


class Explanation(AnswerModel):
    """What a type of errors means."""

    type: Path
    title: str
    explanation: str
    status: Annotated[
        int | None, Field(ge=400, le=599, description="The HTTP status code; not given for errors of tasks.")
    ] = None
    kinds: Annotated[
        list[str] | None, Field(description="The kinds whose tasks can end with the error, if it is not every kind.")
    ] = None


@router.get(
    "/problems/{name}",
    summary="Explain an error type",
    response_model_exclude_none=True,
    response_description="The explanation.",
    responses=problem_responses("not-found", "validation"),
)
async def explain_problem(request: Request, name: str, query: Annotated[NoQuery, Query()]) -> Explanation:
    """Return what the last segment of a `/problems/<name>` URI means."""
    explanation = explanations().get(name)
    if explanation is None:
        raise Problem("not-found", "There is no error type of that name.")
    return explanation


@cache
def explanations() -> dict[str, Explanation]:
    """Return the explanation of each type by name: those of the platform, and those that kinds declare."""
    meanings = {name: meaning for kind in list_kinds().values() for name, meaning in kind.errors.items()}
    found = {name: _explain(name, meaning, kinds=_list_declaring(name)) for name, meaning in meanings.items()}
    for name, meaning in ATTEMPT_ERRORS.items():
        found[name] = _explain(name, meaning)
    for name, problem in PROBLEMS.items():
        # A quota that is exceeded can end a task too, if the task was submitted before.
        kinds = _list_declaring(name) or None
        found[name] = _explain(name, problem.explanation, title=problem.title, status=problem.status, kinds=kinds)
    return found


def _list_declaring(error_name: str) -> list[str]:
    return [kind_name for kind_name, kind in list_kinds().items() if error_name in kind.errors]


def _explain(
    name: str, meaning: str, *, title: str | None = None, status: int | None = None, kinds: list[str] | None = None
) -> Explanation:
    title = title or name.replace("-", " ").capitalize()
    return Explanation(type=f"/problems/{name}", title=title, explanation=meaning, status=status, kinds=kinds)
