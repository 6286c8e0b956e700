"""What the schema at `/openapi.json` says beyond what FastAPI sees: bodies that routes read themselves, and every answer.

Routes build their answers as bytes, so that what is said of them here, and in `api/openapi/answer_schemas.py`, is held against them
by a test.
"""

from __future__ import annotations

from functools import cache
from http import HTTPStatus
from typing import Any, Final

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from api.openapi.answer_schemas import ANSWERS, REF, TEXT, Schema, object_of, ref
from shared.contracts.catalog import list_kinds
from shared.tasks.options import side_by_side_model, submission_model

Responses = dict[int | str, dict[str, Any]]

OPEN_PATHS: Final = ("/health", "/problems", "/openapi.json", "/docs")


_WHOLE_NUMBER: Final = {"schema": {"type": "integer", "minimum": 0}}
_HEADERS: Final[dict[str, dict[str, Any]]] = {
    "X-Request-ID": {"description": "What the log calls the request.", "schema": TEXT},
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
    "WWW-Authenticate": {"description": "What is lacking (RFC 6750).", "schema": TEXT},
    "Preference-Applied": {"description": "`wait=N` when `Prefer` was honoured.", "schema": TEXT},
    "Idempotency-Replayed": {"description": "`true` when the key was used before.", "schema": {"const": "true"}},
}
_ALWAYS: Final = frozenset({"X-Request-ID", "WWW-Authenticate", "Location"})
"""Where these are declared, an answer always has them; the rate limits are known only once the caller is."""


def problem_responses(*statuses: int) -> Responses:
    """Declare the problems that a route answers with; 400, 413 and 500 may come of any."""
    content = {"application/problem+json": {"schema": ref("Problem")}}
    return {
        status: {"description": HTTPStatus(status).phrase, "content": content}
        for status in sorted({400, 413, 500, *statuses})
    }


def json_response(status: int, description: str, *models: str) -> Responses:
    """Declare that a route answers with JSON of a named schema, or of one of several."""
    schema = ref(models[0]) if len(models) == 1 else {"oneOf": [ref(model) for model in models]}
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
        "requestBody": {"required": True, "content": {"application/json": {"schema": ref(model)}}},
        "parameters": parameters,
    }


FOLLOWING: Final[dict[str, Any]] = {
    "parameters": [
        {
            "name": "If-None-Match",
            "in": "header",
            "required": False,
            "schema": TEXT,
            "description": "Entity tags: 304 when the task is still as one of them says.",
        },
        {
            "name": "Prefer",
            "in": "header",
            "required": False,
            "schema": TEXT,
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
        schemas |= ANSWERS | _submission_schemas()
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
        "oneOf": [ref(_submission_name(name)) for name in public],
        "discriminator": {
            "propertyName": "kind",
            "mapping": {name: REF.format(model=_submission_name(name)) for name in public},
        },
    }
    schemas["Batch"] = object_of(
        {"tasks": {"type": "array", "minItems": 1, "maxItems": 1000, "items": ref("Submission")}}
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
