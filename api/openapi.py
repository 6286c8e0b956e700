"""What the schema at `/openapi.json` says beyond what FastAPI sees: bodies that routes read themselves, and every answer.

Routes build their answers as bytes, so that what is said of them here is held against them by a test.
"""

from __future__ import annotations

from functools import cache
from http import HTTPStatus
from typing import Any, Final

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from shared.contracts.catalog import list_kinds
from shared.task_options import side_by_side_model, submission_model
from shared.task_states import TaskStatus

Schema = dict[str, Any]
Responses = dict[int | str, dict[str, Any]]

REF: Final = "#/components/schemas/{model}"
OPEN_PATHS: Final = ("/health", "/problems", "/openapi.json", "/docs")


def _ref(model: str) -> Schema:
    return {"$ref": REF.format(model=model)}


def _object(properties: Schema, *, optional: frozenset[str] = frozenset()) -> Schema:
    """Describe an object with these properties and no other."""
    required = [name for name in properties if name not in optional]
    return {"type": "object", "required": required, "properties": properties, "additionalProperties": False}


_ID: Final = {"type": "string", "format": "uuid"}
_ID_OR_NULL: Final = {"type": ["string", "null"], "format": "uuid"}
_MOMENT: Final = {"type": "string", "format": "date-time"}
_MOMENT_OR_NULL: Final = {"type": ["string", "null"], "format": "date-time"}
_TEXT: Final = {"type": "string"}
_TEXT_OR_NULL: Final = {"type": ["string", "null"]}
_COUNT: Final = {"type": "integer", "minimum": 0}
_STATUS: Final = {"type": "string", "enum": [status.value for status in TaskStatus]}

_PROBLEM: Final = _object(
    {
        "type": {"type": "string", "format": "uri-reference", "pattern": "^/problems/[a-z-]+$"},
        "title": _TEXT,
        "status": {"type": "integer", "minimum": 400, "maximum": 599},
        "detail": _TEXT,
        "instance": {"type": "string", "pattern": "^urn:uuid:"},
        "errors": {
            "type": "array",
            "minItems": 1,
            "maxItems": 100,
            "items": _object(
                {
                    "pointer": {
                        "type": "string",
                        "description": "A JSON Pointer into the body, or `query:NAME`, `path:NAME`, `header:NAME`, `form:NAME`.",
                    },
                    "code": _TEXT,
                    "message": _TEXT,
                }
            ),
        },
    },
    optional=frozenset({"errors"}),
)

_ARTIFACT: Final = _object(
    {
        "id": _ID,
        "name": _TEXT,
        "media_type": _TEXT,
        "size": _COUNT,
        "sha256": {"type": "string", "pattern": "^[0-9a-f]{64}$"},
        "url": {"type": "string", "format": "uri-reference"},
        "expires_at": _MOMENT_OR_NULL,
    }
)

_TASK_ERROR: Final = _object(
    {
        "type": {"type": "string", "format": "uri-reference"},
        "title": _TEXT,
        "detail": _TEXT,
        "retryable": {"type": "boolean"},
        "attempt": _COUNT,
        "data": {"type": "object"},
    }
)

_TASK: Final = _object(
    {
        "id": _ID,
        "kind": _TEXT,
        "queue": _TEXT,
        "status": _STATUS,
        "done": {"type": "boolean"},
        "progress": {
            "oneOf": [
                _object({"percent": {"type": "integer", "minimum": 0, "maximum": 100}, "message": _TEXT_OR_NULL}),
                {"type": "null"},
            ]
        },
        "attempt": _COUNT,
        "max_attempts": {"type": "integer", "minimum": 1},
        "next_attempt_at": _MOMENT_OR_NULL,
        "priority": {"type": "integer", "minimum": 0, "maximum": 9},
        "params": {"type": "object"},
        "result": {"type": ["object", "null"]},
        "error": {"oneOf": [_ref("TaskError"), {"type": "null"}]},
        "artifacts": {"type": "array", "items": _ref("Artifact")},
        "tags": {"type": "array", "items": _TEXT},
        "metadata": {"type": "object", "additionalProperties": _TEXT},
        "batch_id": _ID_OR_NULL,
        "created_at": _MOMENT,
        "run_at": _MOMENT_OR_NULL,
        "started_at": _MOMENT_OR_NULL,
        "finished_at": _MOMENT_OR_NULL,
        "cancel_requested_at": _MOMENT_OR_NULL,
        "purge_at": _MOMENT_OR_NULL,
        "links": _object(
            {name: {"type": "string", "format": "uri-reference"} for name in ("self", "events", "cancel")}
        ),
    }
)

_HEALTH_CHECK: Final = _object(
    {
        "status": {"type": "string", "enum": ["ok", "wrong"]},
        "reason": _TEXT,
        "age_seconds": {"type": ["number", "null"], "minimum": 0},
        "round_trip_seconds": {
            "type": ["number", "null"],
            "minimum": 0,
            "description": "Of a queue: how long its last canary was on its way.",
        },
    },
    optional=frozenset({"reason", "age_seconds", "round_trip_seconds"}),
)

_ANSWERS: Final[dict[str, Schema]] = {
    "Problem": _PROBLEM,
    "Artifact": _ARTIFACT,
    "TaskError": _TASK_ERROR,
    "Task": _TASK,
    "Valid": _object({"valid": {"const": True}}),
    "TaskPage": _object({"items": {"type": "array", "items": _ref("Task")}, "next_cursor": _TEXT_OR_NULL}),
    "TasksById": _object(
        {"items": {"type": "array", "items": _ref("Task")}, "missing": {"type": "array", "items": _ID}}
    ),
    "SubmittedBatch": _object({"batch_id": _ID, "tasks": {"type": "array", "items": _ref("Task"), "minItems": 1}}),
    "BatchState": _object(
        {
            "id": _ID,
            "total": {"type": "integer", "minimum": 1},
            "counts": {
                "type": "object",
                "propertyNames": _STATUS,
                "additionalProperties": {"type": "integer", "minimum": 1},
            },
            "created_at": _MOMENT,
            "finished_at": _MOMENT_OR_NULL,
        }
    ),
    "Kind": _object(
        {
            "kind": _TEXT,
            "queue": _TEXT,
            "title": _TEXT,
            "description": _TEXT,
            "params_schema": {"type": "object"},
            "result_schema": {"type": "object"},
            "max_attempts": {"type": "integer", "minimum": 1},
            "timeout": {"type": "integer", "minimum": 1},
            "available": {"type": "boolean"},
            "reason": _TEXT_OR_NULL,
        }
    ),
    "Kinds": _object({"items": {"type": "array", "items": _ref("Kind")}}),
    "Life": _object({"status": {"const": "ok"}}),
    "Readiness": _object(
        {
            "status": {"type": "string", "enum": ["ok", "degraded", "unavailable"]},
            "checks": {"type": "object", "additionalProperties": _HEALTH_CHECK},
        }
    ),
    "Explanation": _object(
        {
            "type": {"type": "string", "format": "uri-reference"},
            "title": _TEXT,
            "explanation": _TEXT,
            "status": {"type": "integer", "minimum": 400, "maximum": 599},
            "kinds": {"type": "array", "items": _TEXT},
        },
        optional=frozenset({"status", "kinds"}),
    ),
}

_WHOLE_NUMBER: Final = {"schema": {"type": "integer", "minimum": 0}}
_HEADERS: Final[dict[str, dict[str, Any]]] = {
    "X-Request-ID": {"description": "What the log calls the request.", "schema": _TEXT},
    "X-RateLimit-Limit": {
        "description": "Requests of this class that the caller may make in a minute.",
        **_WHOLE_NUMBER,
    },
    "X-RateLimit-Remaining": {"description": "How many of them are left.", **_WHOLE_NUMBER},
    "X-RateLimit-Reset": {"description": "When they begin anew, in seconds of Unix time.", **_WHOLE_NUMBER},
    "Retry-After": {"description": "Seconds to wait before asking again.", **_WHOLE_NUMBER},
    "Location": {
        "description": "Where to follow what was made.",
        "schema": {"type": "string", "format": "uri-reference"},
    },
    "ETag": {"description": "The version of what is shown.", "schema": {"type": "string"}},
    "WWW-Authenticate": {"description": "What is lacking (RFC 6750).", "schema": _TEXT},
    "Preference-Applied": {"description": "`wait=N` when `Prefer` was honoured.", "schema": _TEXT},
    "Idempotency-Replayed": {"description": "`true` when the key was used before.", "schema": {"const": "true"}},
}
_ALWAYS: Final = frozenset({"X-Request-ID", "WWW-Authenticate", "Location"})
"""Where these are declared, an answer always has them; the rate limits are known only once the caller is."""


def problem_responses(*statuses: int) -> Responses:
    """Declare the problems that a route answers with; 400, 413 and 500 may come of any."""
    content = {"application/problem+json": {"schema": _ref("Problem")}}
    return {
        status: {"description": HTTPStatus(status).phrase, "content": content}
        for status in sorted({400, 413, 500, *statuses})
    }


def json_response(status: int, description: str, *models: str) -> Responses:
    """Declare that a route answers with JSON of a named schema, or of one of several."""
    schema = _ref(models[0]) if len(models) == 1 else {"oneOf": [_ref(model) for model in models]}
    return {status: {"description": description, "content": {"application/json": {"schema": schema}}}}


def task_response(status: int) -> Responses:
    """Declare that a route answers with a task."""
    return json_response(status, "The task.", "Task")


def submission_responses() -> Responses:
    """Declare the answers of a route that submits one task."""
    return {
        **json_response(
            200, "Valid (`validate_only`), or the live task that is answered (`unique_for`).", "Valid", "Task"
        ),
        **json_response(202, "The task, which is committed.", "Task"),
        **problem_responses(401, 403, 409, 410, 415, 422, 429, 503),
    }


def body_schema(model: str, *, validate_only: bool = False, idempotent: bool = False) -> dict[str, Any]:
    """Declare a JSON body of a named schema, for a route that reads its body itself."""
    parameters = []
    if validate_only:
        parameters.append(
            {
                "name": "validate_only",
                "in": "query",
                "required": False,
                "schema": {"type": "boolean", "default": False},
                "description": 'Check the request, and store nothing: 200 `{"valid": true}`, or the error.',
            }
        )
    if idempotent:
        parameters.append(
            {
                "name": "Idempotency-Key",
                "in": "header",
                "required": False,
                "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]+$"},
                "description": "The same key and request within 24 hours give the same task.",
            }
        )
    return {
        "requestBody": {"required": True, "content": {"application/json": {"schema": _ref(model)}}},
        "parameters": parameters,
    }


FOLLOWING: Final[dict[str, Any]] = {
    "parameters": [
        {
            "name": "If-None-Match",
            "in": "header",
            "required": False,
            "schema": _TEXT,
            "description": "Entity tags: 304 when the task is still as one of them says.",
        },
        {
            "name": "Prefer",
            "in": "header",
            "required": False,
            "schema": _TEXT,
            "description": "`wait=N` asks to wait as the parameter does; more than 60 counts as 60 (RFC 7240).",
        },
    ]
}
"""The headers that `GET /tasks/<id>` reads."""


def install_openapi(app: FastAPI) -> None:
    """Serve the whole schema."""

    @cache
    def schema() -> dict[str, Any]:
        document = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
        components = document.setdefault("components", {})
        schemas = components.setdefault("schemas", {})
        schemas |= _ANSWERS | _submission_schemas()
        for unused in ("HTTPValidationError", "ValidationError"):
            schemas.pop(unused, None)
        components["headers"] = _HEADERS
        components["securitySchemes"] = {
            "bearer": {"type": "http", "scheme": "bearer"},
            "apiKey": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
        }
        for path, operations in document["paths"].items():
            for method, operation in operations.items():
                closed = not path.startswith(OPEN_PATHS)
                if closed:
                    operation["security"] = [{"bearer": []}, {"apiKey": []}]
                _drop_fastapis_own_422(operation)
                for status, response in operation["responses"].items():
                    response["headers"] = {
                        name: {**_HEADERS[name], "required": name in _ALWAYS}
                        for name in _list_headers(method, path, int(status), closed)
                    }
        return document

    app.openapi = schema  # type: ignore[method-assign]


def _drop_fastapis_own_422(operation: dict[str, Any]) -> None:
    described = operation["responses"].get("422", {}).get("content", {})
    described.pop("application/json", None)
    if not described:
        operation["responses"].pop("422", None)


def _list_headers(method: str, path: str, status: int, closed: bool) -> list[str]:
    names = ["X-Request-ID"]
    if closed:
        names += ["X-RateLimit-Limit", "X-RateLimit-Remaining", "X-RateLimit-Reset"]
    if status == 401:
        names.append("WWW-Authenticate")
    if (
        status in {202, 409, 429, 503}
        or (method, path, status // 100) == ("get", "/tasks/{task_id}", 2)
        or status == 304
    ):
        names.append("Retry-After")
    if method == "post" and status == 202 and not path.endswith(("/cancel", "/retry")):
        names += ["Location", "Idempotency-Replayed"]
    if status in {200, 206, 304} and path in {"/tasks/{task_id}", "/files/{file_id}/content"}:
        names.append("ETag")
    if status == 200 and (method, path) == ("get", "/tasks/{task_id}"):
        names.append("Preference-Applied")
    return names


def _submission_schemas() -> dict[str, Schema]:
    """Give the schemas of what may be submitted: for each public kind its own, so that its params are described too."""
    public = [name for name, kind in list_kinds().items() if kind.public]
    schemas = {
        _submission_name(name): _inlined(submission_model(name).model_json_schema(by_alias=True)) for name in public
    }
    schemas["Submission"] = {
        "oneOf": [_ref(_submission_name(name)) for name in public],
        "discriminator": {
            "propertyName": "kind",
            "mapping": {name: REF.format(model=_submission_name(name)) for name in public},
        },
    }
    schemas["Batch"] = _object(
        {"tasks": {"type": "array", "minItems": 1, "maxItems": 1000, "items": _ref("Submission")}}
    )
    schemas["ReportRequest"] = _inlined(side_by_side_model("reports.run").model_json_schema(by_alias=True))
    schemas["EmailRequest"] = _inlined(side_by_side_model("email.send").model_json_schema(by_alias=True))
    return schemas


def _submission_name(kind_name: str) -> str:
    return submission_model(kind_name).__name__


def _inlined(schema: dict[str, Any]) -> dict[str, Any]:
    """Put a model's definitions in the places that refer to them, so that it stands alone."""
    definitions = schema.pop("$defs", {})

    def resolve(value: Any) -> Any:
        if isinstance(value, dict):
            reference = value.get("$ref")
            if isinstance(reference, str) and reference.startswith("#/$defs/"):
                others = {key: item for key, item in value.items() if key != "$ref"}
                return resolve({**definitions[reference.removeprefix("#/$defs/")], **others})
            return {key: resolve(item) for key, item in value.items()}
        if isinstance(value, list):
            return [resolve(item) for item in value]
        return value

    resolved: dict[str, Any] = resolve(schema)
    return resolved


def kind_schemas() -> dict[str, dict[str, Any]]:
    """Give the JSON schemas of each kind's params and result, standing alone."""
    return {
        name: {
            "params": _inlined(kind.params.model_json_schema(mode="validation", by_alias=True)),
            "result": _inlined(kind.result.model_json_schema(mode="serialization", by_alias=True)),
        }
        for name, kind in list_kinds().items()
    }
