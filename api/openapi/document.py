"""Builds the document at `/openapi.json`: the schema that FastAPI derives from routes and models, completed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, Final

import orjson
from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute

from api.auth.auth_models import auth_components
from api.auth.route_permissions import list_permissions
from api.http.problems import ProblemDocument
from api.keys.key_models import key_components
from api.limits.limit_models import limits_components
from api.openapi.operations import TEXT
from api.openapi.submission_schemas import COMPONENT, Schema, submission_components
from api.organizations.organization_models import organization_components
from api.scheduling.schedule_parsing import schedule_components
from api.submitting.bulk import bulk_components
from api.submitting.reruns import rerun_components
from api.webhooks.webhook_models import webhook_components
from api.workflows.workflow_schemas import workflow_components
from shared.permissions import RULES, SCOPES, Permission

OPEN_PATHS: Final = ("/health", "/problems", "/openapi.json", "/docs", "/.well-known/")
"""The beginnings of the paths of routes that need no credentials."""
OPEN_AUTH_PATHS: Final = frozenset(
    f"/auth/{name}"
    for name in (
        "register",
        "token",
        "challenge",
        "refresh",
        "logout",
        "forgot-password",
        "reset-password",
        "verify-email",
        "resend-verification",
        "oidc/login",
        "oidc/callback",
    )
)
"""The routes of `/auth` that need none either: they take a password or a token in the body."""

TAGS: Final = [
    {"name": "tasks", "description": "Submit tasks of any kind, and follow, cancel, retry and delete them."},
    {"name": "files", "description": "Upload files that tasks read, and download the files that tasks made."},
    {"name": "reports", "description": "Request a report: one SQL query over uploaded tables."},
    {"name": "emails", "description": "Send an email to several recipients, with attachments."},
    {"name": "batches", "description": "Follow and cancel tasks that were submitted together."},
    {"name": "events", "description": "Follow all of your tasks as they change."},
    {
        "name": "workflows",
        "description": "Submit tasks that are steps: each starts when the steps before it have ended, and may read what they made.",
    },
    {
        "name": "schedules",
        "description": "Submit tasks at set times: by a cron rule in a time zone, or at an interval.",
    },
    {
        "name": "webhooks",
        "description": "Have your server called when a task, a batch or a workflow ends, or a schedule fails.",
    },
    {"name": "limits", "description": "See what you use and may use; admins of the platform set the limits."},
    {
        "name": "kinds",
        "description": "List the kinds of tasks, with the JSON Schemas of their params and results; operators can pause them.",
    },
    {"name": "queues", "description": "For operators: see queues and workers, and pause queues and kinds."},
    {"name": "audit", "description": "For admins: see who did what, and from where."},
    {"name": "keys", "description": "Make, list, rotate and revoke API keys."},
    {"name": "organizations", "description": "For admins: manage organizations, and who is in them with which role."},
    {"name": "auth", "description": "Register, sign in and out, and manage passwords and second factors."},
    {"name": "users", "description": "See and change people, their sessions and invitations."},
    {"name": "problems", "description": "Explain the errors of requests and tasks."},
    {"name": "health", "description": "Check the server, for load balancers and monitoring."},
]

_WHOLE_NUMBER: Final = {"schema": {"type": "integer", "minimum": 0}}
_HEADERS: Final[dict[str, dict[str, Any]]] = {
    "X-Request-ID": {"description": "The id of the request, which the log contains.", "schema": TEXT},
    "X-RateLimit-Limit": {
        "description": "How many requests of this class the caller may make in a minute.",
        **_WHOLE_NUMBER,
    },
    "X-RateLimit-Remaining": {"description": "How many of them are left.", **_WHOLE_NUMBER},
    "X-RateLimit-Reset": {
        "description": "When the full number is available again, in seconds of Unix time.",
        **_WHOLE_NUMBER,
    },
    "RateLimit-Policy": {
        "description": 'The class of routes, how many requests of it are allowed, and in how many seconds: `"read";q=600;w=60`.',
        "schema": TEXT,
    },
    "RateLimit": {
        "description": 'How many of these requests are left, and in how many seconds all are available again: `"read";r=599;t=58`.',
        "schema": TEXT,
    },
    "Retry-After": {"description": "How many seconds to wait before the next request.", **_WHOLE_NUMBER},
    "Location": {
        "description": "The path of the task, batch, workflow or schedule, or where a browser goes on.",
        "schema": {"type": "string", "format": "uri-reference"},
    },
    "ETag": {"description": "The version of the answer, for `If-None-Match` and `If-Match`.", "schema": TEXT},
    "WWW-Authenticate": {"description": "Which credentials are needed (RFC 6750).", "schema": TEXT},
    "Preference-Applied": {"description": "`wait=N` if the request's `Prefer` header was applied.", "schema": TEXT},
    "Idempotency-Replayed": {
        "description": "`true` if the answer is that of an earlier request with the same key.",
        "schema": {"const": "true"},
    },
}
_ALWAYS: Final = frozenset({"X-Request-ID", "WWW-Authenticate", "Location"})
"""Headers that are always present where they are declared. The others, such as those of rate limits, may be absent."""


_PLAIN_202: Final = (
    *("/cancel", "/retry", "/test", "/redeliver"),
    *("/register", "/token", "/forgot-password", "/resend-verification", "/force-password"),
)
"""The ends of the paths of routes that answer 202 and submit no task of the caller."""


def operation_id(route: APIRoute) -> str:
    """Return the name of an operation in generated clients, such as `submit_task`."""
    return route.name


def install_openapi(app: FastAPI) -> None:
    """Replace the application's `openapi` function by one that returns the completed schema."""

    @cache
    def document() -> dict[str, Any]:
        return _complete(
            get_openapi(
                title=app.title, version=app.version, description=app.description, routes=app.routes, tags=TAGS
            ),
            _list_needs(app),
        )

    app.openapi = document  # type: ignore[method-assign]


def _list_needs(app: FastAPI) -> dict[tuple[str, str], tuple[Permission, ...]]:
    """Return the permissions that each route needs, by method and path."""
    return {
        (method.lower(), route.path): list_permissions(route)
        for router in app.state.routers
        for route in router.routes
        if isinstance(route, APIRoute)
        for method in route.methods or ()
    }


def _complete(document: dict[str, Any], needs: Mapping[tuple[str, str], tuple[Permission, ...]]) -> dict[str, Any]:
    components = document.setdefault("components", {})
    answers: dict[str, Schema] = components.setdefault("schemas", {})
    for unused in ("HTTPValidationError", "ValidationError"):
        answers.pop(unused, None)
    bodies = {
        **submission_components(),
        **schedule_components(),
        **workflow_components(),
        **rerun_components(),
        **bulk_components(),
        **webhook_components(),
        **auth_components(),
        **key_components(),
        **organization_components(),
        **limits_components(),
    }
    for body in bodies.values():
        _describe_defaults(body)
    components["schemas"] = _join(answers, {**bodies, **_problem_components()})
    components["headers"] = _HEADERS
    components["securitySchemes"] = {
        "bearer": {"type": "http", "scheme": "bearer", "description": "An API key: `Authorization: Bearer tm_…`."},
        "apiKey": {"type": "apiKey", "in": "header", "name": "X-API-Key", "description": "An API key."},
        "password": {
            "type": "oauth2",
            "description": "Signing in as a person, with an email address and a password.",
            "flows": {"password": {"tokenUrl": "/auth/token", "refreshUrl": "/auth/refresh", "scopes": dict(SCOPES)}},
        },
    }
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            _complete_operation(operation, method, path)
            if permissions := needs.get((method, path)):
                _declare_needs(operation, permissions)
    return document


def _declare_needs(operation: dict[str, Any], permissions: Sequence[Permission]) -> None:
    """Add the permissions and scopes that an operation needs to its description and its security."""
    scopes = list(dict.fromkeys(scope for name in permissions if (scope := RULES[name].scope) is not None))
    operation["security"] = [{"bearer": scopes}, {"apiKey": scopes}]
    named = " and ".join(f"`{name}`" for name in permissions)
    word = "permission" if len(permissions) == 1 else "permissions"
    of_scopes = f", by the scope {' and '.join(f'`{scope}`' for scope in scopes)}" if scopes else ""
    operation["description"] = f"{operation.get('description', '')}\n\nNeeds the {word} {named}{of_scopes}.".strip()


def _describe_defaults(component: Schema) -> None:
    """Move the defaults of a body's fields into their descriptions.

    A declared default makes generators of clients require the field (openapi-typescript), or send the default always and,
    where the field may be a list or a text, as the text `[]` (openapi-python-client).
    """
    for field in component.get("properties", {}).values():
        default = field.pop("default", None)
        if isinstance(default, (str, int, float)) and default != "":
            field["description"] = (
                f"{field.get('description', '')} Default: `{orjson.dumps(default).decode()}`.".strip()
            )


def _join(answers: dict[str, Schema], others: dict[str, Schema]) -> dict[str, Schema]:
    """Return all components. Raises `ValueError` when two different ones have the same name."""
    if doubled := {name for name in answers.keys() & others.keys() if answers[name] != others[name]}:
        raise ValueError(f"two different models are called {', '.join(sorted(doubled))}: rename the one of a kind")
    return dict(sorted({**answers, **others}.items()))


def _problem_components() -> dict[str, Schema]:
    schema = ProblemDocument.model_json_schema(mode="serialization", ref_template=COMPONENT)
    return {**schema.pop("$defs"), "Problem": schema}


def _complete_operation(operation: dict[str, Any], method: str, path: str) -> None:
    is_closed = not path.startswith(OPEN_PATHS) and path not in OPEN_AUTH_PATHS
    if is_closed:
        operation["security"] = [{"bearer": []}, {"apiKey": []}, {"password": []}]
    for parameter in operation.get("parameters", ()):
        parameter["schema"] = _without_null(parameter["schema"])
    _drop_fastapis_own_422(operation)
    for status, response in operation["responses"].items():
        response["headers"] = {
            name: {**_HEADERS[name], "required": name in _ALWAYS}
            for name in _list_headers(method, path, int(status), is_closed)
        }


def _without_null(schema: Schema) -> Schema:
    """Return the schema of a parameter that may be left out, but can never be null."""
    choices = [choice for choice in schema.get("anyOf", ()) if choice != {"type": "null"}]
    if len(choices) != 1:
        return schema
    return {**choices[0], **{key: value for key, value in schema.items() if key not in {"anyOf", "default"}}}


def _drop_fastapis_own_422(operation: dict[str, Any]) -> None:
    described = operation["responses"].get("422", {}).get("content", {})
    described.pop("application/json", None)
    if not described:
        operation["responses"].pop("422", None)


def _list_headers(method: str, path: str, status: int, is_closed: bool) -> list[str]:
    names = ["X-Request-ID"]
    if is_closed:
        names += ["X-RateLimit-Limit", "X-RateLimit-Remaining", "X-RateLimit-Reset", "RateLimit-Policy", "RateLimit"]
    if status == 401:
        names.append("WWW-Authenticate")
    if (
        status in {202, 409, 429, 503}
        or (method, path, status // 100) == ("get", "/tasks/{task_id}", 2)
        or status == 304
    ):
        names.append("Retry-After")
    if method == "post" and status == 202 and not path.endswith(_PLAIN_202):
        names += ["Location", "Idempotency-Replayed"]
    if status == 303:
        names.append("Location")
    if status in {200, 206, 304} and path in {"/tasks/{task_id}", "/files/{file_id}/content"}:
        names.append("ETag")
    if status == 200 and (method, path) == ("get", "/tasks/{task_id}"):
        names.append("Preference-Applied")
    return names
