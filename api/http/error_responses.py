"""Turns every exception that a route raises into a problem document (RFC 9457).

`api/http/problems.py` lists the problems. The tree of the platform's own errors is in `shared/errors.py`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import psycopg
import sqlalchemy.exc
import structlog
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError, WebSocketRequestValidationError
from psycopg.errors import UndefinedColumn, UndefinedFunction, UndefinedTable
from psycopg_pool import PoolTimeout
from slowapi.errors import RateLimitExceeded
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from api.http.problems import FieldError, Problem, json_pointer
from api.http.quota_refusals import find_refusal
from api.http.rate_limits import count_unless_counted, headers_of, rate_limited
from shared.database.schema_version import MIGRATE_FIRST
from shared.errors import ObjectMissing, StorageFull, StorageUnavailable

log = structlog.get_logger()


def from_exception(error: Exception) -> Problem:
    """Return the problem that answers an exception. Logs outages and bugs."""
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
            log.warning("dependency_unavailable", error=type(error).__name__)
            return Problem("unavailable", headers={"Retry-After": "2"})
        case ObjectMissing():
            return Problem("gone")
        case ClientDisconnect():
            return Problem("bad-request", "The client closed the connection before the end of the body.")
        case RequestValidationError() | WebSocketRequestValidationError():
            return Problem("validation", errors=[_field_error(item) for item in error.errors()])
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
    if (refusal := find_refusal(error)) is not None:
        return refusal.problem()
    if _is_about_missing_tables(error):
        log.error("database_not_migrated", error=str(error).partition("\n")[0], todo=MIGRATE_FIRST)
        return Problem(
            "unavailable",
            "The database of this server is not migrated to its version yet.",
            headers={"Retry-After": "5"},
        )
    log.error("unexpected_error", exc_info=error)
    return Problem("internal-error")


def _is_about_missing_tables(error: Exception) -> bool:
    """Return whether the database lacks a table, a column or a function that a statement names."""
    cause = error.orig if isinstance(error, sqlalchemy.exc.DBAPIError) else error
    return isinstance(cause, UndefinedTable | UndefinedColumn | UndefinedFunction)


def _field_error(item: Mapping[str, Any]) -> FieldError:
    """Return one of FastAPI's validation errors as a field error."""
    where, *path = item["loc"]
    if where == "body":
        return FieldError(json_pointer(path), item["type"], item["msg"])
    name = ".".join(map(str, path))
    return FieldError(f"{where}:{name}", item["type"], item["msg"])


def problem_response(problem: Problem, request_id: str) -> Response:
    """Return the response for a problem."""
    return Response(problem.body(request_id), problem.status, problem.response_headers())


def install_error_responses(app: FastAPI, allowed_methods: Callable[[str], Sequence[str]]) -> None:
    """Install handlers that answer every exception of a route with a problem document.

    `allowed_methods` returns the methods of a path, for the header `Allow` of a 405.
    """

    async def answer(request: Request, error: Exception) -> Response:
        problem = from_exception(error)
        if isinstance(error, HTTPException) and error.status_code == 405:
            problem.headers["Allow"] = ", ".join(allowed_methods(request.url.path))
        try:
            count_unless_counted(request)
        except Problem as refusal:
            problem = refusal
        problem.headers = headers_of(request) | problem.headers
        return problem_response(problem, request.state.request_id)

    async def answer_rate_limited(request: Request, _error: Exception) -> Response:
        return problem_response(rate_limited(request), request.state.request_id)

    # Starlette finds a handler by the exception's class and its bases. It logs an exception that only `Exception` matches
    # as unhandled, so every expected class is listed here.
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
        WebSocketRequestValidationError,
        HTTPException,
        Exception,
    ):
        app.add_exception_handler(kind, answer)
    app.add_exception_handler(RateLimitExceeded, answer_rate_limited)
    logging.getLogger("slowapi").setLevel(logging.ERROR)
