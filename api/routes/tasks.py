"""`/tasks`: submit, get, list, cancel, retry, rerun and delete tasks, one or many; group failures; explain why one waits."""

from __future__ import annotations

from typing import Annotated, Final
from uuid import UUID

import orjson
from fastapi import APIRouter, Query, Request, Response
from pydantic import Field
from starlette.types import Receive, Scope, Send

from api.auth.caller import Caller
from api.auth.route_permissions import needs
from api.batcher import HotConnection
from api.dependencies import (
    ActorDependency,
    CipherDependency,
    EngineDependency,
    NoBody,
    ReadsDependency,
    SettingsDependency,
    SubmissionsDependency,
    SubmitterCaller,
    TaskActionsDependency,
    TaskActorCaller,
    TaskDeleterCaller,
    TaskReaderCaller,
    TasksDependency,
    WaitEstimatesDependency,
    WaitingDependency,
)
from api.following.task_filters import METADATA_PARAMETER, TASK_COLUMNS, FilterQuery, require_visible_conditions
from api.following.task_models import (
    FailureGroup,
    FailureGroups,
    SubmittedBatch,
    Task,
    TaskCount,
    TaskPage,
    TasksById,
    Valid,
)
from api.following.task_reader import TaskReader
from api.following.task_representation import task_json
from api.http.answers import PRIVATE_HEADERS, private_answer, private_json
from api.http.body import json_body, optional_json_body
from api.http.headers import find_header
from api.http.json_text import load_json
from api.http.list_formats import (
    ACCEPT,
    FORMAT_RESPONSES,
    Page,
    answer_list,
    answer_whole_json,
    answer_whole_list,
    columns_of,
)
from api.http.problems import invalid
from api.http.query_strings import (
    MAX_WAIT_SECONDS,
    NoQuery,
    PageQuery,
    StrictQuery,
    read_validate_only,
)
from api.http.rate_limits import limited
from api.openapi.operations import (
    ANY_CALLER,
    ANY_SUBMISSION,
    FOLLOWING,
    IDEMPOTENCY_KEY,
    problem_responses,
    submission_body,
    submission_responses,
    task_response,
)
from api.openapi.submission_schemas import batch_examples, ref, submission_examples
from api.queues.wait_estimates import WaitEstimates
from api.queues.waiting import Waiting
from api.submitting.bulk import count_tasks, parse_bulk
from api.submitting.idempotency import read_idempotency_key
from api.submitting.parsing import parse_batch
from api.submitting.reruns import parse_rerun, require_inputs
from api.submitting.submissions import Answer, submission_request
from shared.audit.actions import AuditAction
from shared.audit.entries import Entry
from shared.permissions import Permission
from shared.queries import tasks as queries
from shared.queries.audit import INSERT_ENTRY
from shared.tasks.states import RETRIABLE, TaskStatus
from shared.tasks.submission import NewTask

router = APIRouter(tags=["tasks"])
MAX_IDS: Final = 100
MAX_GROUPS: Final = 1000


class ThroughHotPath(Response):
    """Passes the request on to `api.hot_paths`, which answers it."""

    def __init__(self) -> None:
        super().__init__()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await scope["app"].state.hot_paths(scope, receive, send)


@router.post(
    "/tasks",
    status_code=202,
    summary="Submit a task of any kind",
    responses=submission_responses(),
    openapi_extra=submission_body(ref("Submission"), submission_examples()),
)
@needs(Permission.TASKS_SUBMIT)
async def submit_task(request: Request) -> Response:
    """Store a task. The answer is 202 once the task is committed; from then on it cannot be lost."""
    return ThroughHotPath()


@router.get(
    "/tasks/failures",
    summary="Group failed tasks by their kind and error",
    responses={
        200: {"model": FailureGroups, "description": "The groups, the largest first.", "content": FORMAT_RESPONSES},
        **problem_responses(*ANY_CALLER, "not-acceptable"),
    },
    openapi_extra={"parameters": [ACCEPT, METADATA_PARAMETER]},
)
@limited("read")
async def list_failures(
    request: Request, caller: TaskReaderCaller, reads: ReadsDependency, query: Annotated[FilterQuery, Query()]
) -> Response:
    """Return how many tasks failed with each type of error, by kind: those with the status `failed`, unless `status` names
    others of `failed`, `cancelled` and `expired`. Of very many, the newest are counted, in every format.
    """
    which = query.require_known_names().read_filter()
    require_visible_conditions(which, caller)
    if which.status is None:
        which = which.model_copy(update={"status": (TaskStatus.FAILED,)})
    elif not set(which.status) <= RETRIABLE:
        raise invalid(
            "query:status", "enum", "Must be one or more of failed, cancelled and expired, separated by commas."
        )
    async with reads.connect() as connection:
        rows = (
            await connection.execute(queries.list_failures(caller.visible_organization_id, which, MAX_GROUPS + 1))
        ).all()
    groups = [
        FailureGroup(**{name: row._mapping[name] for name in FailureGroup.model_fields}) for row in rows[:MAX_GROUPS]
    ]
    is_whole = sum(row.count for row in rows) < queries.MAX_COUNTED_FAILURES
    answer = FailureGroups(
        items=groups,
        complete=is_whole and len(rows) <= MAX_GROUPS,
        counted_since=None if is_whole else min(row.oldest_at for row in rows),
    )
    return answer_whole_list(request, answer, groups, columns_of(FailureGroup))


class WaitQuery(StrictQuery):
    """How long a request waits for a task."""

    wait: Annotated[
        int | None,
        Field(
            ge=1,
            le=MAX_WAIT_SECONDS,
            description="How many seconds to wait for the task to be done, or, with `If-None-Match`, to change.",
        ),
    ] = None


@router.get(
    "/tasks/{task_id}",
    summary="Get a task, or wait for it",
    responses={
        **task_response(200),
        304: {"description": "The task has not changed since the version that `If-None-Match` names."},
        **problem_responses(*ANY_CALLER, "not-found", "gone"),
    },
    openapi_extra=FOLLOWING,
)
@needs(Permission.TASKS_READ)
async def get_task(request: Request, task_id: UUID, query: Annotated[WaitQuery, Query()]) -> Response:
    """Return a task. With `wait`, the answer comes once the task is done, or, with `If-None-Match`, once it has changed."""
    return ThroughHotPath()


@router.post(
    "/tasks/batch",
    status_code=202,
    summary="Submit up to 1,000 tasks together",
    responses={
        200: {"model": Valid, "description": "The batch is valid, and nothing was stored (`validate_only`)."},
        202: {"model": SubmittedBatch, "description": "Every task is committed."},
        **problem_responses(*ANY_SUBMISSION),
    },
    openapi_extra=submission_body(ref("Batch"), batch_examples()),
)
@limited("submit")
async def submit_batch(
    request: Request, caller: SubmitterCaller, settings: SettingsDependency, submissions: SubmissionsDependency
) -> Response:
    """Store all tasks of the batch in one transaction, or none if one of them is invalid."""
    validate_only = read_validate_only(request.scope["query_string"])
    key = read_idempotency_key(find_header(request, "idempotency-key"))
    body = await json_body(request, settings.max_batch_bytes)
    batch = parse_batch(body, caller)
    if validate_only:
        await submissions.check_files(batch.submissions, caller)
        return private_json(b'{"valid":true}')
    answer = await submissions.accept_batch(batch, submission_request(request, caller, body, key))
    return private_json(answer.body, answer.status, answer.headers())


class ListQuery(PageQuery, FilterQuery):
    """The filters of a list of tasks, and the page."""

    ids: Annotated[
        str | None,
        Field(description=f"Up to {MAX_IDS} ids, separated by commas. No other parameter can be used with it."),
    ] = None


@router.get(
    "/tasks",
    summary="List tasks, newest first",
    responses={
        200: {
            "model": TaskPage | TasksById,
            "description": "A page of tasks; or, with `ids`, the tasks with these ids.",
            "content": FORMAT_RESPONSES,
        },
        **problem_responses(*ANY_CALLER, "not-acceptable"),
    },
    openapi_extra={"parameters": [ACCEPT, METADATA_PARAMETER]},
)
@limited("read")
async def list_tasks(
    request: Request,
    caller: TaskReaderCaller,
    settings: SettingsDependency,
    reads: ReadsDependency,
    tasks: TasksDependency,
    query: Annotated[ListQuery, Query()],
) -> Response:
    """Return a page of the tasks that the caller may see, or those with the given ids."""
    query.require_known_names()
    if query.ids is not None:
        return await _list_by_ids(request, query, caller, tasks)
    which = query.read_filter()
    require_visible_conditions(which, caller)

    async def read(before_id: UUID | None, limit: int) -> Page:
        statement = queries.list_page(caller.visible_organization_id, which, before_id=before_id, limit=limit + 1)
        async with reads.connect() as connection:
            ids = list((await connection.execute(statement)).scalars())
        rows = await tasks.find_many(ids[:limit], caller)
        return Page([task_json(row) for row in rows], ids[limit - 1] if len(ids) > limit else None)

    return await answer_list(request, settings, query, read=read, columns=TASK_COLUMNS)


async def _list_by_ids(request: Request, query: ListQuery, caller: Caller, tasks: TaskReader) -> Response:
    if extra := (query.model_fields_set | set(query.model_extra or {})) - {"ids"}:
        raise invalid(f"query:{min(extra)}", "not_with_ids", "No other parameter can be used with ids.")
    assert query.ids is not None
    try:
        ids = list(dict.fromkeys(UUID(text) for text in query.ids.split(",")))
    except ValueError:
        raise invalid("query:ids", "uuid_parsing", "Must be UUIDs, separated by commas.") from None
    if len(ids) > MAX_IDS:
        raise invalid("query:ids", "too_long", f"Must be at most {MAX_IDS} ids.")
    rows = {row.id: row for row in await tasks.find_many(ids, caller)}
    items = [task_json(rows[task_id]) for task_id in ids if task_id in rows]
    missing = [str(task_id) for task_id in ids if task_id not in rows]
    answer = orjson.dumps({"items": [*map(orjson.Fragment, items)], "missing": missing})
    return answer_whole_json(request, answer, items, TASK_COLUMNS)


@router.post(
    "/tasks/{task_id}/cancel",
    status_code=202,
    summary="Cancel a task",
    responses={
        **task_response(202),
        **problem_responses(*ANY_CALLER, "not-found", "gone", "task-done", "unsupported-media-type"),
    },
)
@limited("submit")
async def cancel_task(
    request: Request,
    task_id: UUID,
    caller: TaskActorCaller,
    actor: ActorDependency,
    actions: TaskActionsDependency,
    tasks: TasksDependency,
    wait_estimates: WaitEstimatesDependency,
    query: Annotated[NoQuery, Query()],
    body: NoBody,
) -> Response:
    """Cancel a task that is not running, or request the cancellation of a running one."""
    await actions.cancel(task_id, caller, actor)
    return await _task_answer(tasks, wait_estimates, task_id, caller)


@router.post(
    "/tasks/{task_id}/retry",
    status_code=202,
    summary="Retry a failed, cancelled or expired task",
    responses={
        **task_response(202),
        **problem_responses(
            *ANY_CALLER, "not-found", "gone", "task-not-retriable", "input-gone", "unsupported-media-type"
        ),
    },
)
@limited("submit")
async def retry_task(
    request: Request,
    task_id: UUID,
    caller: TaskActorCaller,
    actor: ActorDependency,
    actions: TaskActionsDependency,
    tasks: TasksDependency,
    wait_estimates: WaitEstimatesDependency,
    query: Annotated[NoQuery, Query()],
    body: NoBody,
) -> Response:
    """Queue the task again, with the attempts of its kind added."""
    await actions.retry(task_id, caller, actor)
    return await _task_answer(tasks, wait_estimates, task_id, caller)


@router.delete(
    "/tasks/{task_id}",
    status_code=204,
    summary="Delete a done task",
    response_description="The task, its params, its result and its artifacts are deleted.",
    responses=problem_responses(*ANY_CALLER, "not-found", "gone", "task-not-done", "workflow-not-done", "file-in-use"),
)
@limited("submit")
async def delete_task(
    request: Request,
    task_id: UUID,
    caller: TaskDeleterCaller,
    actor: ActorDependency,
    actions: TaskActionsDependency,
    query: Annotated[NoQuery, Query()],
) -> Response:
    """Delete a done task, its params, its result and its artifacts now, instead of when `purge_at` is reached."""
    await actions.delete(task_id, caller, actor)
    return Response(status_code=204, headers=dict(PRIVATE_HEADERS))


@router.get(
    "/tasks/{task_id}/waiting",
    summary="Find out why a task waits",
    response_model=Waiting,
    response_description="Why it waits, and when it may start.",
    responses=problem_responses(*ANY_CALLER, "not-found", "gone"),
)
@limited("read")
async def explain_waiting(
    request: Request,
    task_id: UUID,
    caller: TaskReaderCaller,
    tasks: TasksDependency,
    waiting: WaitingDependency,
    query: Annotated[NoQuery, Query()],
) -> Response:
    """Return why the task waits, what is ahead of it, and when it may start. `reason` is null if it is running or done.

    Callers' tasks start in turn, so what is ahead is counted in that order, and a task of a caller with few tasks is before
    most tasks of a caller with many.
    """
    found = await waiting.find(task_id, caller.visible_organization_id)
    if found is None:
        raise await tasks.gone_or_missing(task_id, caller)
    return private_answer(found)


@router.post(
    "/tasks/bulk",
    status_code=202,
    summary="Cancel, retry or delete many tasks",
    responses={
        200: {"model": TaskCount, "description": "How many tasks there are; nothing was changed (`dry_run`)."},
        **task_response(202, "The task that does it: follow or cancel it as any other."),
        **problem_responses(*ANY_SUBMISSION),
    },
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {
                    "schema": ref("BulkRequest"),
                    "examples": {
                        "retry": {
                            "summary": "Retry what timed out yesterday, ten tasks each second",
                            "value": {
                                "action": "retry",
                                "filter": {
                                    "error_type": "/problems/timed-out",
                                    "created_after": "2030-01-31T00:00:00Z",
                                    "created_before": "2030-02-01T00:00:00Z",
                                },
                                "per_second": 10,
                            },
                        }
                    },
                }
            },
        },
        "parameters": [IDEMPOTENCY_KEY],
    },
)
@limited("submit")
async def submit_bulk(
    request: Request,
    caller: TaskActorCaller,
    actor: ActorDependency,
    settings: SettingsDependency,
    engine: EngineDependency,
    submissions: SubmissionsDependency,
    query: Annotated[NoQuery, Query()],
) -> Response:
    """Count the tasks that fit a filter, and submit a task that cancels, retries or deletes them in small steps.

    Tasks that are created later are left alone, and so are those that the caller could not cancel, retry or delete one by one.
    """
    key = read_idempotency_key(find_header(request, "idempotency-key"))
    body = await json_body(request, settings.max_json_bytes)
    bulk = parse_bulk(body, caller)
    count = await count_tasks(engine, bulk)
    if bulk.dry_run:
        return private_answer(count)
    details = {"action": bulk.action, "count": count.count}

    async def write_audit(connection: HotConnection, task: NewTask) -> None:
        entry = Entry(actor, AuditAction.BULK_ACTION_SUBMITTED, task.id, bulk.organization_id, after=details)
        await connection.execute(INSERT_ENTRY, entry.parameters())

    submission = submission_request(request, caller, body, key)
    answer = await submissions.accept(bulk.submission(count), submission, write_audit)
    return private_json(answer.body, answer.status, answer.headers())


@router.post(
    "/tasks/{task_id}/rerun",
    status_code=202,
    summary="Rerun a done task",
    responses={
        200: {"model": Task, "description": "A task that is not done and has the same params (`unique_for`)."},
        **task_response(202, "The new task, which is committed."),
        **problem_responses(*ANY_SUBMISSION, "not-found", "task-not-done", "input-gone", "conflict"),
    },
    openapi_extra={
        "requestBody": {
            "required": False,
            "content": {
                "application/json": {
                    "schema": ref("Rerun"),
                    "examples": {
                        "change": {
                            "summary": "Change a param of an email",
                            "value": {"params": {"subject": "The corrected report"}},
                        }
                    },
                }
            },
        },
        "parameters": [IDEMPOTENCY_KEY],
    },
)
@limited("submit")
async def rerun_task(
    request: Request,
    task_id: UUID,
    caller: SubmitterCaller,
    settings: SettingsDependency,
    reads: ReadsDependency,
    tasks: TasksDependency,
    submissions: SubmissionsDependency,
    cipher: CipherDependency,
    query: Annotated[NoQuery, Query()],
) -> Response:
    """Submit a new task with the kind, params and options of a done one, each of which the body may change.

    `params` of the body are merged into those of the task (JSON Merge Patch, RFC 7396): a field that is null is left out. The
    new task names the old one in `rerun_of`, and `links.reruns` of the old one lists the new ones.
    """
    key = read_idempotency_key(find_header(request, "idempotency-key"))
    body = await optional_json_body(request, settings.max_json_bytes)
    # Before the digest of the request is made, which needs JSON.
    load_json(body)
    submission = submission_request(request, caller, body, key)

    async def accept() -> Answer:
        async with reads.connect() as connection:
            stored = (
                await connection.execute(queries.find_submission(task_id, caller.visible_organization_id))
            ).one_or_none()
        if stored is None:
            raise await tasks.gone_or_missing(task_id, caller)
        parsed = parse_rerun(body, stored, caller, cipher)
        await require_inputs(submissions, parsed, caller)
        return await submissions.accept(parsed, submission)

    answer = await submissions.replay_or(submission, accept)
    return private_json(answer.body, answer.status, answer.headers())


async def _task_answer(tasks: TaskReader, wait_estimates: WaitEstimates, task_id: UUID, caller: Caller) -> Response:
    """Return 202 with a task as it is now."""
    row = await tasks.get(task_id, caller)
    headers = {"ETag": row.etag}
    if not row.done:
        headers["Retry-After"] = str(wait_estimates.retry_after_seconds(row))
    return private_json(task_json(row), 202, headers)
