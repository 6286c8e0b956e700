"""The JSON that routes answer with, as JSON Schema: the components of the schema at `/openapi.json`, by name."""

from __future__ import annotations

from typing import Any, Final

from shared.tasks.states import TaskStatus

Schema = dict[str, Any]

REF: Final = "#/components/schemas/{model}"


def ref(model: str) -> Schema:
    """Refer to a component."""
    return {"$ref": REF.format(model=model)}


def object_of(properties: Schema, *, optional: frozenset[str] = frozenset()) -> Schema:
    """Describe an object with these properties and no other."""
    required = [name for name in properties if name not in optional]
    return {"type": "object", "required": required, "properties": properties, "additionalProperties": False}


_ID: Final = {"type": "string", "format": "uuid"}
_ID_OR_NULL: Final = {"type": ["string", "null"], "format": "uuid"}
_MOMENT: Final = {"type": "string", "format": "date-time"}
_MOMENT_OR_NULL: Final = {"type": ["string", "null"], "format": "date-time"}
TEXT: Final = {"type": "string"}
_TEXT_OR_NULL: Final = {"type": ["string", "null"]}
_SHA256: Final = {"type": "string", "pattern": "^[0-9a-f]{64}$"}
_COUNT: Final = {"type": "integer", "minimum": 0}
_STATUS: Final = {"type": "string", "enum": [status.value for status in TaskStatus]}

_PROBLEM: Final = object_of(
    {
        "type": {"type": "string", "format": "uri-reference", "pattern": "^/problems/[a-z-]+$"},
        "title": TEXT,
        "status": {"type": "integer", "minimum": 400, "maximum": 599},
        "detail": TEXT,
        "instance": {"type": "string", "pattern": "^urn:uuid:"},
        "errors": {
            "type": "array",
            "minItems": 1,
            "maxItems": 100,
            "items": object_of(
                {
                    "pointer": {
                        "type": "string",
                        "description": "A JSON Pointer into the body, or `query:NAME`, `path:NAME`, `header:NAME`, `form:NAME`.",
                    },
                    "code": TEXT,
                    "message": TEXT,
                }
            ),
        },
    },
    optional=frozenset({"errors"}),
)

_ARTIFACT: Final = object_of(
    {
        "id": _ID,
        "name": TEXT,
        "media_type": TEXT,
        "size": _COUNT,
        "sha256": _SHA256,
        "url": {"type": "string", "format": "uri-reference"},
        "expires_at": _MOMENT_OR_NULL,
    }
)

_TASK_ERROR: Final = object_of(
    {
        "type": {"type": "string", "format": "uri-reference"},
        "title": TEXT,
        "detail": TEXT,
        "retryable": {"type": "boolean"},
        "attempt": _COUNT,
        "data": {"type": "object"},
    }
)

_TASK: Final = object_of(
    {
        "id": _ID,
        "kind": TEXT,
        "queue": TEXT,
        "status": _STATUS,
        "done": {"type": "boolean"},
        "progress": {
            "oneOf": [
                object_of({"percent": {"type": "integer", "minimum": 0, "maximum": 100}, "message": _TEXT_OR_NULL}),
                {"type": "null"},
            ]
        },
        "attempt": _COUNT,
        "max_attempts": {"type": "integer", "minimum": 1},
        "next_attempt_at": _MOMENT_OR_NULL,
        "priority": {"type": "integer", "minimum": 0, "maximum": 9},
        "params": {"type": "object"},
        "result": {"type": ["object", "null"]},
        "error": {"oneOf": [ref("TaskError"), {"type": "null"}]},
        "artifacts": {"type": "array", "items": ref("Artifact")},
        "tags": {"type": "array", "items": TEXT},
        "metadata": {"type": "object", "additionalProperties": TEXT},
        "batch_id": _ID_OR_NULL,
        "created_at": _MOMENT,
        "run_at": _MOMENT_OR_NULL,
        "started_at": _MOMENT_OR_NULL,
        "finished_at": _MOMENT_OR_NULL,
        "cancel_requested_at": _MOMENT_OR_NULL,
        "purge_at": _MOMENT_OR_NULL,
        "links": object_of(
            {name: {"type": "string", "format": "uri-reference"} for name in ("self", "cancel")}
        ),
    }
)

_HEALTH_CHECK: Final = object_of(
    {
        "status": {"type": "string", "enum": ["ok", "wrong"]},
        "reason": TEXT,
        "age_seconds": {"type": ["number", "null"], "minimum": 0},
        "round_trip_seconds": {
            "type": ["number", "null"],
            "minimum": 0,
            "description": "Of a queue: how long its last canary was on its way.",
        },
    },
    optional=frozenset({"reason", "age_seconds", "round_trip_seconds"}),
)

ANSWERS: Final[dict[str, Schema]] = {
    "Problem": _PROBLEM,
    "Artifact": _ARTIFACT,
    "TaskError": _TASK_ERROR,
    "Task": _TASK,
    "Valid": object_of({"valid": {"const": True}}),
    "TaskPage": object_of({"items": {"type": "array", "items": ref("Task")}, "next_cursor": _TEXT_OR_NULL}),
    "TasksById": object_of(
        {"items": {"type": "array", "items": ref("Task")}, "missing": {"type": "array", "items": _ID}}
    ),
    "SubmittedBatch": object_of({"batch_id": _ID, "tasks": {"type": "array", "items": ref("Task"), "minItems": 1}}),
    "BatchState": object_of(
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
    "File": object_of(
        {
            "id": _ID,
            "name": TEXT,
            "media_type": TEXT,
            "size": _COUNT,
            "sha256": _SHA256,
            "origin": {"type": "string", "enum": ["upload", "task"]},
            "task_id": _ID_OR_NULL,
            "created_at": _MOMENT,
            "expires_at": _MOMENT_OR_NULL,
        }
    ),
    "FilePage": object_of({"items": {"type": "array", "items": ref("File")}, "next_cursor": _TEXT_OR_NULL}),
    "Kind": object_of(
        {
            "kind": TEXT,
            "queue": TEXT,
            "title": TEXT,
            "description": TEXT,
            "params_schema": {"type": "object"},
            "result_schema": {"type": "object"},
            "max_attempts": {"type": "integer", "minimum": 1},
            "timeout": {"type": "integer", "minimum": 1},
            "available": {"type": "boolean"},
            "reason": _TEXT_OR_NULL,
        }
    ),
    "Kinds": object_of({"items": {"type": "array", "items": ref("Kind")}}),
    "Life": object_of({"status": {"const": "ok"}}),
    "Readiness": object_of(
        {
            "status": {"type": "string", "enum": ["ok", "degraded", "unavailable"]},
            "checks": {"type": "object", "additionalProperties": _HEALTH_CHECK},
        }
    ),
    "Explanation": object_of(
        {
            "type": {"type": "string", "format": "uri-reference"},
            "title": TEXT,
            "explanation": TEXT,
            "status": {"type": "integer", "minimum": 400, "maximum": 599},
            "kinds": {"type": "array", "items": TEXT},
        },
        optional=frozenset({"status", "kinds"}),
    ),
}
