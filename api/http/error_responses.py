"""Turns what went wrong into problem details (RFC 9457): the only place that knows status codes.

Problem     an answer that is not a success: a name from `PROBLEMS`, a detail, and where in the request it lies
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import orjson
import psycopg
import sqlalchemy.exc
import structlog
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from psycopg_pool import PoolTimeout
from pydantic import ValidationError
from slowapi.errors import RateLimitExceeded
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from api.following.task_representation import PRIVATE_HEADERS
from shared.errors import ObjectMissing, StorageFull, StorageUnavailable

MAX_FIELD_ERRORS: Final = 100
MAX_FINDINGS: Final = 10_000
"""More findings in one body than these are not read one by one: a megabyte can hold hundreds of thousands."""
log = structlog.get_logger()


class ProblemType(NamedTuple):
    """What a problem's name means."""

    status: int
    title: str
    explanation: str


PROBLEMS: Final[dict[str, ProblemType]] = {
    "bad-request": ProblemType(
        400, "Bad request", "The request is not HTTP that the server can read. Check the client."
    ),
    "unauthorized": ProblemType(
        401,
        "Unauthorized",
        "There are no credentials, or they are wrong or revoked. Send `Authorization: Bearer <key>`.",
    ),
    "forbidden": ProblemType(
        403,
        "Forbidden",
        "The credentials are good, but lack the scope or the role. Ask an admin for a key that has it.",
    ),
    "not-found": ProblemType(404, "Not found", "There is no such thing, or it belongs to another caller."),
    "method-not-allowed": ProblemType(
        405, "Method not allowed", "The path exists, with the methods that `Allow` names."
    ),
    "conflict": ProblemType(409, "Conflict", "The task or file is not in a state that allows this."),
    "task-done": ProblemType(409, "Task is done", "A task that is done cannot be cancelled."),
    "task-not-done": ProblemType(409, "Task is not done", "Only a done task can be deleted: cancel it, and wait."),
    "task-not-retriable": ProblemType(
        409, "Task cannot be retried", "Only a failed, cancelled or expired task can be sent back to its queue."
    ),
    "input-gone": ProblemType(409, "Input gone", "A file that the task reads was deleted. Submit the task again."),
    "file-in-use": ProblemType(
        409, "File in use", "A task that is not done reads the file: wait for it, or cancel it."
    ),
    "idempotency-key-in-flight": ProblemType(
        409, "Request in flight", "A request with this Idempotency-Key is still being answered: try again soon."
    ),
    "gone": ProblemType(410, "Gone", "It existed, and was purged or deleted."),
    "too-large": ProblemType(413, "Too large", "The body is larger than the route takes."),
    "unsupported-media-type": ProblemType(
        415, "Unsupported media type", "The body, or the uploaded file, is of a type that cannot be read here."
    ),
    "range-not-satisfiable": ProblemType(416, "Range not satisfiable", "The file has no byte in the range asked for."),
    "validation": ProblemType(422, "Invalid request", "Parts of the request are wrong: `errors` says which, and how."),
    "idempotency-key-reused": ProblemType(
        422, "Idempotency-Key reused", "The key was used for another request within 24 hours: use a new one."
    ),
    "rate-limited": ProblemType(429, "Too many requests", "Wait as long as `Retry-After` says."),
    "queue-full": ProblemType(
        429,
        "Queue full",
        "Too many tasks are queued already. Nothing was accepted: try again after `Retry-After` seconds.",
    ),
    "internal-error": ProblemType(
        500,
        "Internal error",
        "The fault is ours. The log tells more under the request's id; a task may be tried again.",
    ),
    "unavailable": ProblemType(
        503, "Unavailable", "The database or the storage does not answer. Nothing was accepted: try again soon."
    ),
    "storage-full": ProblemType(507, "Storage full", "There is no room for the upload. Nothing was accepted."),
}


@dataclass(frozen=True)
class FieldError:
    """One part of a request that is wrong. `pointer` is a JSON Pointer (RFC 6901), or `query:NAME`, `header:NAME`, …"""

    pointer: str
    code: str
    message: str


class Problem(Exception):
    """An answer that is not a success."""

    def __init__(
        self,
        name: str,
        detail: str | None = None,
        *,
        errors: Sequence[FieldError] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(name, detail)
        self.name = name
        self.detail = detail
        self.errors = errors
        self.headers = dict(headers or {})

    @property
    def status(self) -> int:
        """The HTTP status code."""
        return PROBLEMS[self.name].status

    def response_headers(self) -> dict[str, str]:
        """Give every header of the answer: no cache may give to one caller what another was refused, or the reverse."""
        headers = {"Content-Type": "application/problem+json", **PRIVATE_HEADERS, **self.headers}
        if self.name == "unauthorized":
            headers.setdefault("WWW-Authenticate", "Bearer")
        return headers

    def body(self, request_id: str) -> bytes:
        """Give the document."""
        kind = PROBLEMS[self.name]
        document: dict[str, Any] = {
            "type": f"/problems/{self.name}",
            "title": kind.title,
            "status": kind.status,
            "detail": self.detail or kind.explanation,
            "instance": f"urn:uuid:{request_id}",
        }
        if self.errors:
            document["errors"] = [
                {"pointer": e.pointer, "code": e.code, "message": e.message} for e in self.errors[:MAX_FIELD_ERRORS]
            ]
        return orjson.dumps(document)


def invalid(pointer: str, code: str, message: str) -> Problem:
    """One part of the request is wrong."""
    return Problem("validation", errors=[FieldError(pointer, code, message)])


def invalid_body(error: ValidationError, prefix: str = "") -> Problem:
    """The body does not fit its model; `prefix` is the pointer to what was validated."""
    return Problem("validation", errors=body_errors(error, prefix))


def body_errors(error: ValidationError, prefix: str = "") -> list[FieldError]:
    """Give pydantic's findings with JSON Pointers, and in JSON's words; as one, when there are very many."""
    if error.error_count() > MAX_FINDINGS:
        message = f"More than {MAX_FINDINGS:,} fields are wrong: is this the right document?"
        return [FieldError(prefix, "too_many_errors", message)]
    found = []
    for item in error.errors(include_url=False, include_input=False):
        pointer = item.get("ctx", {}).get("pointer") if item["type"] != "json_invalid" else ""
        if pointer is None:
            pointer = json_pointer(item["loc"])
        elif item["loc"] and item["type"] != "json_invalid":
            pointer = json_pointer(item["loc"]) + pointer
        code = "list_type" if item["type"] == "tuple_type" else item["type"]
        found.append(FieldError(prefix + pointer, code, _in_terms_of_json(item["msg"])))
    # A list with a wrong item counts as one without it, and so may be too short besides: that is no finding of its own.
    return [
        one
        for one in found
        if one.code != "too_short" or not any(other.pointer.startswith(one.pointer + "/") for other in found)
    ]


def _in_terms_of_json(message: str) -> str:
    """Say what pydantic says of Python's collections of JSON's."""
    return _COUNTED.sub(lambda match: f"Must have at {match[1]} {match[2]}, not {match[3]}", message)


_COUNTED: Final = re.compile(
    r"(?:List|Tuple|Set|Frozenset|Dictionary) should have at (least|most) (\d+ items?) after validation, not (more|\d+)"
)


def json_pointer(path: Iterable[str | int]) -> str:
    """Write a path as a JSON Pointer (RFC 6901)."""
    return "".join("/" + str(step).replace("~", "~0").replace("/", "~1") for step in path)


def from_exception(error: Exception) -> Problem:
    """Give the answer to any error that reached the edge."""
    match error:
        case Problem():
            return error
        case StorageFull():
            return Problem("storage-full")
        case (
            StorageUnavailable()
            | PoolTimeout()
            | psycopg.OperationalError()
            | psycopg.InterfaceError()
            | sqlalchemy.exc.OperationalError()
            | sqlalchemy.exc.InterfaceError()
            | sqlalchemy.exc.TimeoutError()
            | TimeoutError()
        ):
            log.warning("part_unavailable", error=type(error).__name__)
            return Problem("unavailable", headers={"Retry-After": "2"})
        case ObjectMissing():
            return Problem("gone")
        case ClientDisconnect():
            return Problem("bad-request", "The client went away before the end of the body.")
        case RequestValidationError():
            return Problem("validation", errors=[_request_error(item) for item in error.errors()])
        case HTTPException(status_code=404):
            return Problem("not-found", "There is no such route.")
        case HTTPException(status_code=405):
            return Problem("method-not-allowed")
        case HTTPException(status_code=413):
            return Problem("too-large")
        case HTTPException(status_code=415):
            return Problem("unsupported-media-type")
        case HTTPException():
            return Problem("bad-request", "The request cannot be read.")
    log.error("unexpected_error", exc_info=error)
    return Problem("internal-error")


def _request_error(item: Mapping[str, Any]) -> FieldError:
    where, *path = item["loc"]
    if where == "body":
        return FieldError(json_pointer(path), item["type"], item["msg"])
    name = ".".join(map(str, path))
    return FieldError(f"{where}:{name}", item["type"], item["msg"])


def problem_response(problem: Problem, request_id: str) -> Response:
    """Give the response for a problem."""
    return Response(problem.body(request_id), problem.status, problem.response_headers())


def install_error_responses(app: FastAPI, allowed_methods: Callable[[str], Sequence[str]]) -> None:
    """Make every error that a route raises a problem document; `allowed_methods` gives a path's methods, for 405."""

    async def answer(request: Request, error: Exception) -> Response:
        from api.http.rate_limits import count_unless_counted, headers_of

        problem = from_exception(error)
        if isinstance(error, HTTPException) and error.status_code == 405:
            problem.headers["Allow"] = ", ".join(allowed_methods(request.url.path))
        try:
            count_unless_counted(request)
        except Problem as refusal:
            problem = refusal
        problem.headers = headers_of(request) | problem.headers
        return problem_response(problem, request.state.request_id)

    async def answer_rate_limited(request: Request, error: Exception) -> Response:
        from api.http.rate_limits import rate_limited

        return problem_response(rate_limited(request), request.state.request_id)

    for kind in (
        Problem,
        StorageFull,
        StorageUnavailable,
        ObjectMissing,
        PoolTimeout,
        psycopg.Error,
        sqlalchemy.exc.SQLAlchemyError,
        TimeoutError,
        RequestValidationError,
        HTTPException,
        Exception,
    ):
        app.add_exception_handler(kind, answer)
    app.add_exception_handler(RateLimitExceeded, answer_rate_limited)
    logging.getLogger("slowapi").setLevel(logging.ERROR)
