"""`/tasks`: submit, follow, list, cancel, retry, delete."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Annotated, Any, Final, Literal
from uuid import UUID

import orjson
from fastapi import APIRouter, Query, Request, Response
from psycopg.errors import CheckViolation
from pydantic import Field, ValidationError
from sqlalchemy import Executable
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection
from starlette.types import Receive, Scope, Send

from api.auth.authentication import Caller
from api.dependencies import (
    NoBody,
    ServicesDependency,
    SubmissionsDependency,
    TaskReaderCaller,
    TaskWriterCaller,
)
from api.following.task_representation import task_json
from api.hot_paths import gone_or_missing
from api.http.answers import PRIVATE_HEADERS, json_page, private_json
from api.http.body import json_body
from api.http.cursors import read_cursor, write_cursor
from api.http.headers import find_header
from api.http.problems import Problem, invalid
from api.http.query_strings import NoQuery, PageLimit, StrictQuery, read_validate_only
from api.http.rate_limits import limited
from api.openapi.operations import (
    FOLLOWING,
    body_schema,
    json_response,
    problem_responses,
    submission_responses,
    task_response,
)
from api.services import Services
from api.storage_threads import in_storage_thread
from api.submitting.parsing import fingerprint, parse_batch, read_idempotency_key, read_traceparent
from api.submitting.submissions import Request as SubmissionRequest
from shared.contracts.catalog import find_kind
from shared.contracts.kind import QUEUES, list_referred_files
from shared.errors import StorageUnavailable
from shared.queries import tasks as queries
from shared.queries.emails import mark_unknown_as_retriable
from shared.queries.files import hold_files
from shared.tasks.options import Timestamp
from shared.tasks.states import TaskStatus
from shared.tasks.wakeup_channel import write_ids

router = APIRouter(tags=["tasks"])
MAX_IDS: Final = 100


class ThroughHotPath(Response):
    """Answers through `api.hot_paths`, for a request that came by way of the router."""

    def __init__(self) -> None:
        super().__init__()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand the request on."""
        await scope["app"].state.hot_paths(scope, receive, send)


@router.post(
    "/tasks",
    status_code=202,
    summary="Submit a task of any kind",
    responses=submission_responses(),
    openapi_extra=body_schema("Submission", validate_only=True, idempotent=True),
)
async def submit_task(request: Request) -> Response:
    """Store a task, and answer 202 once it is committed."""
    return ThroughHotPath()


class WaitQuery(StrictQuery):
    """How long to wait."""

    wait: Annotated[int | None, Field(ge=1, le=60, description="Seconds to wait for the task to be done.")] = None


@router.get(
    "/tasks/{task_id}",
    summary="Follow a task",
    responses={
        **task_response(200),
        304: {"description": "The task is as `If-None-Match` says."},
        **problem_responses(401, 403, 404, 410, 422, 429, 503),
    },
    openapi_extra=FOLLOWING,
)
async def get_task(request: Request, task_id: UUID, query: Annotated[WaitQuery, Query()]) -> Response:
    """Give the task; with `wait`, once it is done, or, with `If-None-Match`, once it has changed."""
    return ThroughHotPath()


@router.post(
    "/tasks/batch",
    status_code=202,
    summary="Submit up to 1,000 tasks, all or none",
    responses={
        **json_response(200, "Valid (`validate_only`).", "Valid"),
        **json_response(202, "Every task is committed.", "SubmittedBatch"),
        **problem_responses(401, 403, 409, 410, 415, 422, 429, 503),
    },
    openapi_extra=body_schema("Batch", validate_only=True, idempotent=True),
)
@limited("submit")
async def submit_batch(
    request: Request, caller: TaskWriterCaller, services: ServicesDependency, submissions: SubmissionsDependency
) -> Response:
    """Store tasks in one transaction."""
    validate_only = read_validate_only(request.scope["query_string"])
    key = read_idempotency_key(find_header(request, "idempotency-key"))
    body = await json_body(request, services.settings.max_batch_bytes)
    batch = parse_batch(body, caller)
    if validate_only:
        await submissions.check_files(batch, caller)
        return private_json(b'{"valid":true}')
    answer = await submissions.accept_batch(batch, submission_request(request, caller, body, key))
    return private_json(answer.body, answer.status, answer.headers())


class ListQuery(StrictQuery):
    """Which tasks, and which page of them."""

    limit: PageLimit = 50
    cursor: str | None = None
    ids: Annotated[str | None, Field(description="Up to 100 ids, separated by commas; alone.")] = None
    status: Annotated[str | None, Field(description="One or more statuses, separated by commas.")] = None
    kind: Annotated[str | None, Field(max_length=100)] = None
    queue: Literal[QUEUES] | None = None  # type: ignore[valid-type]
    tag: Annotated[str | None, Field(max_length=64)] = None
    batch_id: UUID | None = None
    created_after: Timestamp | None = None
    created_before: Timestamp | None = None


@router.get(
    "/tasks",
    summary="List tasks, newest first",
    responses={
        **json_response(
            200, "A page; or the tasks of the ids, and those ids that there is no task of.", "TaskPage", "TasksById"
        ),
        **problem_responses(401, 403, 422, 429, 503),
    },
)
@limited("read")
async def list_tasks(
    request: Request, caller: TaskReaderCaller, services: ServicesDependency, query: Annotated[ListQuery, Query()]
) -> Response:
    """Give a page of the caller's tasks, or those of the ids."""
    if query.ids is not None:
        return await _list_by_ids(query, caller, services)
    statuses = None
    if query.status is not None:
        statuses = query.status.split(",")
        if not set(statuses) <= set(TaskStatus):
            raise invalid("query:status", "enum", f"Of {', '.join(TaskStatus)}")
    for name in ("kind", "tag"):
        if "\x00" in (getattr(query, name) or ""):
            raise invalid(f"query:{name}", "nul_character", "Text must not contain U+0000")
    statement = queries.list_page(
        None if caller.privileged else caller.organization_id,
        before_id=read_cursor(services.settings, query.cursor) if query.cursor is not None else None,
        limit=query.limit + 1,
        status=statuses,
        kind=query.kind,
        queue=query.queue,
        tag=query.tag,
        batch_id=query.batch_id,
        created_after=query.created_after,
        created_before=query.created_before,
    )
    async with services.reads.connect() as connection:
        ids = list((await connection.execute(statement)).scalars())
    more = len(ids) > query.limit
    rows = await services.reader.find_many(ids[: query.limit])
    cursor = write_cursor(services.settings, ids[query.limit - 1]) if more else None
    return private_json(json_page([orjson.Fragment(task_json(row)) for row in rows], cursor))


async def _list_by_ids(query: ListQuery, caller: Caller, services: Services) -> Response:
    if extra := query.model_fields_set - {"ids"}:
        raise invalid(f"query:{min(extra)}", "not_with_ids", "ids go alone")
    assert query.ids is not None
    try:
        ids = list(dict.fromkeys(UUID(text) for text in query.ids.split(",")))
    except ValueError:
        raise invalid("query:ids", "uuid_parsing", "Ids are UUIDs, separated by commas") from None
    if len(ids) > MAX_IDS:
        raise invalid("query:ids", "too_long", f"At most {MAX_IDS} ids")
    rows = {row.id: row for row in await services.reader.find_many(ids) if caller.sees(row.organization_id)}
    items = [orjson.Fragment(task_json(rows[task_id])) for task_id in ids if task_id in rows]
    missing = [str(task_id) for task_id in ids if task_id not in rows]
    return private_json(orjson.dumps({"items": items, "missing": missing}))


@router.post(
    "/tasks/{task_id}/cancel",
    status_code=202,
    summary="Cancel a task",
    responses={**task_response(202), **problem_responses(401, 403, 404, 409, 410, 415, 422, 429, 503)},
)
@limited("submit")
async def cancel_task(
    request: Request,
    task_id: UUID,
    caller: TaskWriterCaller,
    services: ServicesDependency,
    query: Annotated[NoQuery, Query()],
    body: NoBody,
) -> Response:
    """Cancel what waits, and ask what runs to stop."""
    async with locked_task(services, caller, task_id) as (connection, row):
        if TaskStatus(row.status).done:
            raise Problem("task-done", f"The task is {row.status}.")
        await connection.exec_driver_sql(queries.CANCEL, {"ids": [task_id]})
    await wake_waiters(services, [task_id])
    return await task_answer(services, task_id, 202)


@router.post(
    "/tasks/{task_id}/retry",
    status_code=202,
    summary="Send a failed, cancelled or expired task back to its queue",
    responses={**task_response(202), **problem_responses(401, 403, 404, 409, 410, 415, 422, 429, 503)},
)
@limited("submit")
async def retry_task(
    request: Request,
    task_id: UUID,
    caller: TaskWriterCaller,
    services: ServicesDependency,
    query: Annotated[NoQuery, Query()],
    body: NoBody,
) -> Response:
    """Queue the task once more, with the kind's attempts added."""
    async with locked_task(services, caller, task_id) as (connection, row):
        kind = find_kind(row.kind)
        if row.status not in {"failed", "cancelled", "expired"} or kind is None:
            raise Problem("task-not-retriable", f"The task is {row.status}.")
        stored = (await connection.execute(queries.read_params(task_id))).scalar_one()
        try:
            params = kind.params.model_validate_json(orjson.dumps(stored))
        except ValidationError:
            raise Problem(
                "task-not-retriable", "The stored params do not fit the kind any more: submit it again."
            ) from None
        inputs = {file.file_id for file in list_referred_files(params)}
        if inputs:
            present = {file.id for file in await connection.execute(hold_files(inputs))}
            if present != inputs:
                raise Problem("input-gone")
        await connection.execute(mark_unknown_as_retriable(task_id))
        try:
            await connection.exec_driver_sql(queries.RETRY, {"id": task_id, "kind_attempts": kind.max_attempts})
        except IntegrityError as error:
            if isinstance(error.orig, CheckViolation):
                raise Problem("task-not-retriable", "It was retried too often: submit it again.") from None
            raise
    await wake_waiters(services, [task_id])
    return await task_answer(services, task_id, 202)


@router.delete(
    "/tasks/{task_id}",
    status_code=204,
    summary="Erase a done task, its artifacts and its payload",
    responses=problem_responses(401, 403, 404, 409, 410, 422, 429, 503),
)
@limited("submit")
async def delete_task(
    request: Request,
    task_id: UUID,
    caller: TaskWriterCaller,
    services: ServicesDependency,
    query: Annotated[NoQuery, Query()],
) -> Response:
    """Erase a done task now."""
    async with locked_task(services, caller, task_id) as (connection, row):
        caller.require_may_delete(row.organization_id)
        if not TaskStatus(row.status).done:
            raise Problem("task-not-done", f"The task is {row.status}.")
        artifacts = (await connection.execute(queries.lock_artifacts([task_id]))).all()
        if (await connection.execute(queries.list_tasks_with_artifacts_in_use([task_id]))).first() is not None:
            raise Problem("file-in-use", "A task that is not done reads an artifact of this one.")
        statement: Executable
        for statement in queries.erase_tasks([task_id]):
            await connection.execute(statement)
    if artifacts:
        # The rows are gone for certain: an object that cannot be deleted now is an orphan, and is found as one.
        with suppress(StorageUnavailable):
            await in_storage_thread(services.store.delete, [artifact.storage_key for artifact in artifacts])
    return Response(status_code=204, headers=dict(PRIVATE_HEADERS))


@asynccontextmanager
async def locked_task(services: Services, caller: Caller, task_id: UUID) -> AsyncIterator[tuple[AsyncConnection, Any]]:
    """Hold a task's row in a transaction; give both. Raises `not-found` or `gone` unless the caller may see the task."""
    await require_task(services, caller, task_id)
    async with services.engine.begin() as connection:
        row = (await connection.execute(queries.lock_task(task_id))).one_or_none()
        if row is None:
            raise Problem("gone")
        yield connection, row


async def require_task(services: Services, caller: Caller, task_id: UUID) -> None:
    """Raise `not-found` or `gone` unless the caller may see the task."""
    version = await services.reader.find_version(task_id)
    if version is None or not caller.sees(version[3]):
        raise await gone_or_missing(services, task_id, caller)


async def task_answer(services: Services, task_id: UUID, status: int) -> Response:
    """Give a task's representation as it is now."""
    row = await services.reader.find(task_id)
    if row is None:
        raise Problem("gone")
    headers = {"ETag": row.etag}
    if not row.done:
        headers["Retry-After"] = "1"
    return private_json(task_json(row), status, headers)


def submission_request(request: Request, caller: Caller, body: bytes, key: str | None) -> SubmissionRequest:
    """Gather what a submission needs to know of its request."""
    return SubmissionRequest(
        caller,
        request.state.request_id,
        key,
        fingerprint(request.method, request.url.path, body) if key is not None else None,
        read_traceparent(find_header(request, "traceparent")),
    )


async def wake_waiters(services: Services, task_ids: Sequence[UUID]) -> None:
    """Wake those who wait for the tasks, here and in other processes; the slow poll sees it if the broker is silent."""
    for task_id in task_ids:
        services.waiters.wake(task_id)
    if task_ids:
        await services.waiters.publish(write_ids(task_ids))
