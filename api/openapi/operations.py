"""Parts of the schema that routes declare: their problems, and the bodies and headers that FastAPI does not read for them."""

from __future__ import annotations

from typing import Annotated, Any, Final

from pydantic import Field

from api.following.task_models import Task, Valid
from api.http.problems import PROBLEMS
from api.openapi.submission_schemas import Schema, ref

Responses = dict[int | str, dict[str, Any]]

ANY_ROUTE: Final = ("bad-request", "too-large", "internal-error")
"""The problems that every route may answer with."""
ANY_CALLER: Final = ("unauthorized", "forbidden", "validation", "rate-limited", "unavailable")
"""The problems of every route that needs credentials."""
ANY_SUBMISSION: Final = (
    *ANY_CALLER,
    "unsupported-media-type",
    "queue-full",
    "quota-tasks-per-day",
    "quota-live-tasks",
    "quota-emails-per-day",
    "quota-recipients-per-day",
    "quota-stored-bytes",
    "quota-retention-seconds",
    "quota-senders",
    "idempotency-key-in-flight",
    "idempotency-key-reused",
    "gone",
)
"""The problems of every route that stores tasks."""
TEXT: Final[Schema] = {"type": "string"}


def problem_responses(*names: str) -> Responses:
    """Return the responses of the problems with these names, and of those that every route may answer with."""
    by_status: dict[int, list[str]] = {}
    for name in dict.fromkeys((*ANY_ROUTE, *names)):
        by_status.setdefault(PROBLEMS[name].status, []).append(name)
    return {
        status: {
            "description": _describe_problems(names),
            "content": {"application/problem+json": {"schema": ref("Problem")}},
        }
        for status, names in sorted(by_status.items())
    }


def _describe_problems(names: list[str]) -> str:
    if len(names) == 1:
        problem = PROBLEMS[names[0]]
        return f"{problem.title} (`/problems/{names[0]}`). {problem.explanation}"
    return "\n".join(f"- {PROBLEMS[name].title} (`/problems/{name}`). {PROBLEMS[name].explanation}" for name in names)


def task_response(status: int, description: str = "The task.") -> Responses:
    """Return the response of a route that answers with a task."""
    return {status: {"model": Task, "description": description}}


def submission_responses() -> Responses:
    """Return the responses of a route that stores one task."""
    return {
        200: {
            "model": Valid | Task,
            "description": "The request is valid, and nothing was stored (`validate_only`); or a live task with the same "
            "params, in which case no new task was stored (`unique_for`).",
        },
        **task_response(202, "The task, which is committed."),
        **problem_responses(*ANY_SUBMISSION),
    }


VALIDATE_ONLY: Final[Schema] = {
    "name": "validate_only",
    "in": "query",
    "required": False,
    "schema": {"type": "boolean", "default": False},
    "description": 'Check the request and store nothing. The answer is 200 with `{"valid": true}`, or the problem.',
}
IDEMPOTENCY_KEY: Final[Schema] = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]+$"},
    "description": "A key that you choose for this request. If you repeat the request with the same key within 24 hours, "
    "nothing is stored again and the answer shows the same task.",
}


def submission_body(schema: Schema, examples: dict[str, Schema]) -> dict[str, Any]:
    """Return the `openapi_extra` of a route that reads a submission from a JSON body."""
    content = {"application/json": {"schema": schema, "examples": examples}}
    return {
        "requestBody": {"required": True, "content": content},
        "parameters": [VALIDATE_ONLY, IDEMPOTENCY_KEY],
    }


IF_MATCH: Final[dict[str, Any]] = {
    "name": "If-Match",
    "in": "header",
    "required": True,
    "schema": TEXT,
    "description": "The `ETag` of what is changed, as you last read it.",
}


def json_body_of(component: str, example: Schema, *parameters: Schema) -> dict[str, Any]:
    """Return the `openapi_extra` of a route that reads a component from a JSON body, and has these parameters too."""
    content = {"application/json": {"schema": ref(component), "examples": {"example": {"value": example}}}}
    return {"requestBody": {"required": True, "content": content}, "parameters": list(parameters)}


PREFER: Final[dict[str, Any]] = {
    "name": "Prefer",
    "in": "header",
    "required": False,
    "schema": TEXT,
    "description": "`wait=N` waits like the query parameter `wait`; more than 60 counts as 60 (RFC 7240).",
}
FOLLOWING: Final[dict[str, Any]] = {
    "parameters": [
        {
            "name": "If-None-Match",
            "in": "header",
            "required": False,
            "schema": TEXT,
            "description": "The `ETag` of an earlier answer. While the task has not changed since, the answer is 304.",
        },
        PREFER,
    ]
}
"""The headers that `GET /tasks/<id>` reads."""

LAST_EVENT_ID = Annotated[
    str | None,
    Field(
        max_length=4096,
        description="The same as the header `Last-Event-ID`, which a browser does not send with its first connection.",
    ),
]
"""The query parameter of streams that names the message after which a stream begins."""
LAST_EVENT_ID_HEADER: Final[dict[str, Any]] = {
    "parameters": [
        {
            "name": "Last-Event-ID",
            "in": "header",
            "required": False,
            "schema": TEXT,
            "description": "The `id` of the last message that was received.",
        }
    ]
}


def stream_response(event: Schema, description: str) -> Responses:
    """Return the response of a route that streams events with a schema."""
    return {200: {"description": description, "content": {"text/event-stream": {"schema": event}}}}
