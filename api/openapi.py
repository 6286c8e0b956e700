"""What the schema at `/openapi.json` says beyond what FastAPI sees: bodies that routes read themselves, and problems."""

from __future__ import annotations

from functools import cache
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from shared.contracts.catalog import list_kinds
from shared.task_options import TaskOptions, side_by_side_model

REF = "#/components/schemas/{model}"

TASK_SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["id", "kind", "queue", "status", "done", "progress", "attempt", "max_attempts", "params", "links"],
    "properties": {
        "id": {"type": "string", "format": "uuid"},
        "kind": {"type": "string"},
        "queue": {"type": "string"},
        "status": {
            "type": "string",
            "enum": ["scheduled", "queued", "running", "retrying", "succeeded", "failed", "cancelled", "expired"],
        },
        "done": {"type": "boolean"},
        "progress": {
            "type": ["object", "null"],
            "properties": {"percent": {"type": "integer"}, "message": {"type": ["string", "null"]}},
        },
        "attempt": {"type": "integer"},
        "max_attempts": {"type": "integer"},
        "next_attempt_at": {"type": ["string", "null"], "format": "date-time"},
        "priority": {"type": "integer"},
        "params": {"type": "object"},
        "result": {"type": ["object", "null"]},
        "error": {"type": ["object", "null"]},
        "artifacts": {"type": "array", "items": {"type": "object"}},
        "tags": {"type": "array", "items": {"type": "string"}},
        "metadata": {"type": "object", "additionalProperties": {"type": "string"}},
        "batch_id": {"type": ["string", "null"], "format": "uuid"},
        "created_at": {"type": "string", "format": "date-time"},
        "run_at": {"type": ["string", "null"], "format": "date-time"},
        "started_at": {"type": ["string", "null"], "format": "date-time"},
        "finished_at": {"type": ["string", "null"], "format": "date-time"},
        "cancel_requested_at": {"type": ["string", "null"], "format": "date-time"},
        "purge_at": {"type": ["string", "null"], "format": "date-time"},
        "links": {"type": "object", "additionalProperties": {"type": "string"}},
    },
}

PROBLEM_SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["type", "title", "status", "detail", "instance"],
    "properties": {
        "type": {"type": "string", "format": "uri-reference"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "instance": {"type": "string"},
        "errors": {
            "type": "array",
            "maxItems": 100,
            "items": {
                "type": "object",
                "required": ["pointer", "code", "message"],
                "properties": {name: {"type": "string"} for name in ("pointer", "code", "message")},
            },
        },
    },
}

SUBMISSION_SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["kind"],
    "properties": {
        "kind": {"type": "string"},
        "params": {"type": "object", "default": {}},
        **TaskOptions.model_json_schema()["properties"],
    },
    "additionalProperties": False,
}

BATCH_SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["tasks"],
    "properties": {
        "tasks": {"type": "array", "minItems": 1, "maxItems": 1000, "items": {"$ref": REF.format(model="Submission")}}
    },
    "additionalProperties": False,
}


def problem_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Declare the problems that a route answers with; 400 and 500 may come of any."""
    content = {"application/problem+json": {"schema": {"$ref": REF.format(model="Problem")}}}
    return {status: {"description": HTTPStatus(status).phrase, "content": content} for status in (400, *statuses, 500)}


def task_response(status: int) -> dict[int | str, dict[str, Any]]:
    """Declare that a route answers with a task."""
    content = {"application/json": {"schema": {"$ref": REF.format(model="Task")}}}
    return {status: {"description": "The task.", "content": content}}


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
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": {"$ref": REF.format(model=model)}}},
        },
        "parameters": parameters,
    }


def install_openapi(app: FastAPI) -> None:
    """Serve the whole schema."""

    @cache
    def schema() -> dict[str, Any]:
        document = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
        components = document.setdefault("components", {})
        schemas = components.setdefault("schemas", {})
        schemas |= {
            "Task": TASK_SCHEMA,
            "Problem": PROBLEM_SCHEMA,
            "Submission": SUBMISSION_SCHEMA,
            "Batch": BATCH_SCHEMA,
            "ReportRequest": _inlined(side_by_side_model("reports.run").model_json_schema()),
            "EmailRequest": _inlined(side_by_side_model("email.send").model_json_schema()),
        }
        for unused in ("HTTPValidationError", "ValidationError"):
            schemas.pop(unused, None)
        components["securitySchemes"] = {
            "bearer": {"type": "http", "scheme": "bearer"},
            "apiKey": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
        }
        open_paths = ("/health", "/problems", "/openapi.json", "/docs")
        for path, operations in document["paths"].items():
            for operation in operations.values():
                if not path.startswith(open_paths):
                    operation["security"] = [{"bearer": []}, {"apiKey": []}]
                described = operation["responses"].get("422", {}).get("content", {})
                described.pop("application/json", None)
                if not described:
                    operation["responses"].pop("422", None)
        return document

    app.openapi = schema  # type: ignore[method-assign]


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
