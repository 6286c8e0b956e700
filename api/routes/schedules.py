"""`/schedules`: schedules, which submit tasks at set times."""

from __future__ import annotations

from datetime import datetime
from itertools import islice
from typing import Annotated, Any, Final
from uuid import UUID

import orjson
import psycopg
from fastapi import APIRouter, Query, Request, Response
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from api.auditing.entries import write_entry
from api.auth.caller import Caller
from api.batcher import HotConnection
from api.dependencies import (
    ActorDependency,
    CipherDependency,
    EngineDependency,
    NoBody,
    QueueBoundsDependency,
    ReadsDependency,
    ScheduleManagerCaller,
    ScheduleReaderCaller,
    SettingsDependency,
    SubmissionsDependency,
    WorkflowActionsDependency,
)
from api.following.task_models import Task
from api.following.task_representation import new_task_json
from api.http.answers import PRIVATE_HEADERS, private_answer, private_json
from api.http.body import json_body
from api.http.conditional import require_match
from api.http.json_text import load_json
from api.http.list_formats import ACCEPT, FORMAT_RESPONSES, Page, answer_list, columns_of, make_page
from api.http.problems import Problem
from api.http.query_strings import NoQuery, PageQuery
from api.http.rate_limits import limited
from api.openapi.operations import ANY_CALLER, ANY_SUBMISSION, IF_MATCH, json_body_of, problem_responses
from api.scheduling.schedule_models import (
    Schedule,
    ScheduleError,
    ScheduleLinks,
    ScheduleNotify,
    SchedulePage,
    SchedulePreview,
    ScheduleRun,
    ScheduleWebhook,
)
from api.scheduling.schedule_parsing import (
    ParsedSchedule,
    apply_patch,
    map_step_params,
    only_disables,
    parse_preview,
    parse_schedule,
    refuse_platform_change,
)
from api.submitting.submissions import SubmissionRequest
from api.workflows.workflow_models import Workflow
from shared.audit.actions import AuditAction
from shared.audit.entries import Entry
from shared.contracts.catalog import find_kind
from shared.identifiers import new_id
from shared.permissions import Permission
from shared.queries import schedules as queries
from shared.queries.audit import INSERT_ENTRY
from shared.schedules.rules import Rule
from shared.schedules.submission import UnusableSchedule, describe_rule, find_rule, list_next_times, make_scheduled
from shared.stored_secrets import SecretCipher
from shared.tasks.follow_ups import read_follow_up
from shared.tasks.options import TaskOptions
from shared.tasks.secret_params import mask_value, open_values
from shared.tasks.submission import PLATFORM_ID, NewTask

PREVIEWED_TIMES: Final = 10
LAST_RUNS: Final = 10
router = APIRouter(tags=["schedules"])


_EXAMPLE: Final = {
    "name": "nightly-profile",
    "cron": "30 2 * * *",
    "timezone": "Europe/Berlin",
    "kind": "email.send",
    "params": {"to": ["team@example.com"], "subject": "Good morning", "text": "It is half past two."},
}


@router.post(
    "/schedules",
    status_code=201,
    summary="Create a schedule",
    response_model=Schedule,
    response_description="The schedule, which is committed.",
    responses=problem_responses(*ANY_CALLER, "conflict", "name-taken", "unsupported-media-type"),
    openapi_extra=json_body_of("NewSchedule", _EXAMPLE),
)
@limited("submit")
async def create_schedule(
    request: Request,
    caller: ScheduleManagerCaller,
    actor: ActorDependency,
    settings: SettingsDependency,
    submissions: SubmissionsDependency,
    cipher: CipherDependency,
    engine: EngineDependency,
    query: Annotated[NoQuery, Query()],
) -> Response:
    """Store a schedule. It submits its task at each time of its rule, for as long as it is enabled."""
    parsed = parse_schedule(await json_body(request, settings.max_json_bytes), caller)
    await submissions.check_files(parsed.submissions, caller)
    values = {
        "id": new_id(),
        "organization_id": caller.organization_id,
        "owner_id": caller.owner_id,
        **parsed.columns(cipher, caller.organization_id, caller.owner_id),
    }
    try:
        async with engine.begin() as connection:
            await _require_room(connection, caller.organization_id, settings.max_schedules)
            values["next_at"] = await _find_next(connection, parsed)
            row = (await connection.execute(queries.insert_schedule(values))).one()
            entry = Entry(actor, AuditAction.SCHEDULE_CREATED, row.id, row.organization_id, after=_audited(row))
            await write_entry(connection, entry)
    except IntegrityError:
        raise Problem("name-taken") from None
    return private_answer(_schedule(row), 201, {"Location": f"/schedules/{row.id}", "ETag": _etag(row)})


@router.get(
    "/schedules",
    summary="List schedules, newest first",
    responses={
        200: {"model": SchedulePage, "description": "A page of schedules.", "content": FORMAT_RESPONSES},
        **problem_responses(*ANY_CALLER, "not-acceptable"),
    },
    openapi_extra={"parameters": [ACCEPT]},
)
@limited("read")
async def list_schedules(
    request: Request,
    caller: ScheduleReaderCaller,
    settings: SettingsDependency,
    reads: ReadsDependency,
    query: Annotated[PageQuery, Query()],
) -> Response:
    """Return the schedules that the caller may see; operators and admins see all, the platform's own too."""

    async def read(before_id: UUID | None, limit: int) -> Page:
        async with reads.connect() as connection:
            statement = queries.list_schedules(caller.visible_organization_id, before_id, limit + 1)
            rows = (await connection.execute(statement)).all()
        return make_page(rows, limit, _schedule)

    columns = columns_of(Schedule, "next_times", "last_runs", "links")
    return await answer_list(request, settings, query, read=read, columns=columns)


@router.post(
    "/schedules/preview",
    summary="Show when a rule would run",
    response_model=SchedulePreview,
    response_description="The next ten times.",
    responses=problem_responses(*ANY_CALLER, "unsupported-media-type"),
    openapi_extra=json_body_of("ScheduleRule", {"cron": "30 2 * * *", "timezone": "Europe/Berlin"}),
)
@limited("submit")
async def preview_schedule(
    request: Request,
    caller: ScheduleReaderCaller,
    settings: SettingsDependency,
    reads: ReadsDependency,
    query: Annotated[NoQuery, Query()],
) -> Response:
    """Return the rule in plain words and its next ten times. Nothing is stored."""
    rule = parse_preview(await json_body(request, settings.max_json_bytes))
    async with reads.connect() as connection:
        now = await _read_clock(connection)
    times = list(islice(rule.iterate_times(now), PREVIEWED_TIMES))
    return private_answer(SchedulePreview(description=rule.describe(), times=times))


@router.get(
    "/schedules/{schedule_id}",
    summary="Get a schedule with its next times and last runs",
    response_model=Schedule,
    response_description="The schedule.",
    responses=problem_responses(*ANY_CALLER, "not-found"),
)
@limited("read")
async def get_schedule(
    request: Request,
    schedule_id: UUID,
    caller: ScheduleReaderCaller,
    reads: ReadsDependency,
    query: Annotated[NoQuery, Query()],
) -> Response:
    """Return a schedule, its next five times, and its last ten runs."""
    async with reads.connect() as connection:
        row = await _get(connection, queries.find_schedule(schedule_id, caller.visible_organization_id))
        runs = (await connection.execute(queries.list_runs(schedule_id, LAST_RUNS))).all()
        now = await _read_clock(connection)
    last_runs = [
        ScheduleRun(at=run.slot, task_id=run.task_id, workflow_id=run.workflow_id, status=run.status) for run in runs
    ]
    return private_answer(
        _schedule(row, next_times=list_next_times(row, now), last_runs=last_runs), headers={"ETag": _etag(row)}
    )


@router.patch(
    "/schedules/{schedule_id}",
    summary="Change a schedule",
    response_model=Schedule,
    response_description="The schedule as it is now.",
    responses=problem_responses(
        *ANY_CALLER,
        "not-found",
        "name-taken",
        "precondition-failed",
        "precondition-required",
        "unsupported-media-type",
    ),
    openapi_extra=json_body_of("ScheduleChange", {"enabled": False}, IF_MATCH),
)
@limited("submit")
async def change_schedule(
    request: Request,
    schedule_id: UUID,
    caller: ScheduleManagerCaller,
    actor: ActorDependency,
    settings: SettingsDependency,
    submissions: SubmissionsDependency,
    cipher: CipherDependency,
    engine: EngineDependency,
    query: Annotated[NoQuery, Query()],
) -> Response:
    """Change the fields that the body names. Beat follows the changed schedule within two seconds."""
    body = await json_body(request, settings.max_json_bytes)
    try:
        async with engine.begin() as connection:
            stored = await _lock_for_change(connection, schedule_id, caller)
            require_match(request, _etag(stored))
            if stored.owner_id == PLATFORM_ID:
                values = {"enabled": refuse_platform_change(body), "next_at": stored.now}
            elif only_disables(body):
                # Neither the rule nor the task is checked: a schedule whose file is gone can be stopped, too.
                values = {"enabled": False, "planned_at": stored.planned_at}
            else:
                parsed = parse_schedule(apply_patch(_as_body(stored, cipher), body), caller)
                await submissions.check_files(parsed.submissions, caller)
                columns = parsed.columns(cipher, stored.organization_id, stored.owner_id)
                values = {**columns, **await _plan_change(connection, stored, parsed)}
            row = (await connection.execute(queries.change_schedule(schedule_id, values))).one()
            after = _audited(row) | {"changed": sorted(load_json(body))}
            entry = Entry(actor, AuditAction.SCHEDULE_CHANGED, row.id, row.organization_id, _audited(stored), after)
            await write_entry(connection, entry)
    except IntegrityError:
        raise Problem("name-taken") from None
    return private_answer(_schedule(row), headers={"ETag": _etag(row)})


@router.delete(
    "/schedules/{schedule_id}",
    status_code=204,
    summary="Delete a schedule",
    response_description="The schedule is deleted.",
    responses=problem_responses(*ANY_CALLER, "not-found"),
)
@limited("submit")
async def delete_schedule(
    request: Request,
    schedule_id: UUID,
    caller: ScheduleManagerCaller,
    actor: ActorDependency,
    engine: EngineDependency,
    query: Annotated[NoQuery, Query()],
) -> Response:
    """Delete a schedule. The tasks that it submitted stay."""
    async with engine.begin() as connection:
        stored = await _lock_for_change(connection, schedule_id, caller)
        if stored.owner_id == PLATFORM_ID:
            raise Problem("forbidden", "The platform's own schedules can be disabled, but not deleted.")
        await connection.execute(queries.delete_schedule(schedule_id))
        entry = Entry(actor, AuditAction.SCHEDULE_DELETED, schedule_id, stored.organization_id, _audited(stored))
        await write_entry(connection, entry)
    return Response(status_code=204, headers=dict(PRIVATE_HEADERS))


@router.post(
    "/schedules/{schedule_id}/run",
    status_code=202,
    summary="Run a schedule now",
    responses={
        202: {"model": Task | Workflow, "description": "The task or workflow, which is committed."},
        **problem_responses(*ANY_SUBMISSION, "not-found", "input-gone", "conflict"),
    },
)
@limited("submit")
async def run_schedule(
    request: Request,
    schedule_id: UUID,
    caller: ScheduleManagerCaller,
    actor: ActorDependency,
    reads: ReadsDependency,
    submissions: SubmissionsDependency,
    workflows: WorkflowActionsDependency,
    queue_bounds: QueueBoundsDependency,
    query: Annotated[NoQuery, Query()],
    body: NoBody,
) -> Response:
    """Submit the schedule's task or workflow now, whether it is enabled or not. Its times stay as they are."""
    async with reads.connect() as connection:
        schedule = await _get(connection, queries.find_schedule(schedule_id, caller.visible_organization_id))
        now = await _read_clock(connection)
    caller.require_for(Permission.SCHEDULES_MANAGE, schedule.organization_id)
    try:
        task = make_scheduled(schedule, now)
    except UnusableSchedule as error:
        raise Problem("conflict", str(error)) from None
    kind_names = [task.kind] if isinstance(task, NewTask) else [plan.submission["kind"] for plan in task.plans]
    for kind in map(find_kind, kind_names):
        if kind is not None and kind.privileged:
            caller.require(Permission.TASKS_SUBMIT_PLATFORM_KINDS)
    await queue_bounds.admit(schedule.owner_id, len(kind_names))
    task.api_key_id, task.request_id = caller.key_id, request.state.request_id

    async def insert_slot(connection: HotConnection) -> None:
        task_id = task.id if isinstance(task, NewTask) else task.first_task_id
        await connection.execute(queries.INSERT_SLOT_NOW, {"schedule_id": schedule_id, "task_id": task_id})
        after = {"task_id": str(task_id)}
        entry = Entry(actor, AuditAction.SCHEDULE_RUN, schedule_id, schedule.organization_id, after=after)
        await connection.execute(INSERT_ENTRY, entry.parameters())

    try:
        if not isinstance(task, NewTask):
            answer = await workflows.store(task, caller, insert_slot)
            return private_json(answer.body, answer.status, answer.headers())
        created_at = await submissions.store_together(
            [task], SubmissionRequest(caller, request.state.request_id), insert_slot
        )
    except psycopg.errors.ForeignKeyViolation as error:
        # Either the schedule was deleted in the meantime, or a file of its task was.
        raise Problem("not-found" if error.diag.table_name == "schedule_slots" else "input-gone") from None
    return private_json(new_task_json(task, created_at), 202, {"Location": f"/tasks/{task.id}", "Retry-After": "1"})


async def _get(connection: AsyncConnection, statement: Any) -> Any:
    row = (await connection.execute(statement)).first()
    if row is None:
        raise Problem("not-found")
    return row


async def _lock_for_change(connection: AsyncConnection, schedule_id: UUID, caller: Caller) -> Any:
    """Return a schedule that the caller may change, and lock its row. Raises `not-found` or `forbidden`."""
    row = await _get(connection, queries.lock_schedule(schedule_id, caller.visible_organization_id))
    caller.require_for(Permission.SCHEDULES_MANAGE, row.organization_id)
    return row


async def _require_room(connection: AsyncConnection, organization_id: UUID, max_schedules: int) -> None:
    """Raise `conflict` when an organization has as many schedules as it may. Requests at the same time may exceed it."""
    if (await connection.execute(queries.count_schedules(organization_id))).scalar_one() >= max_schedules:
        raise Problem(
            "conflict", f"An organization may have {max_schedules} schedules, and yours has them: delete one first."
        )


async def _find_next(connection: AsyncConnection, parsed: ParsedSchedule) -> Any:
    """Return the next time of a rule by the clock of the database, or None if there is none."""
    now = await _read_clock(connection)
    return next(parsed.rule.iterate_times(now), None)


async def _plan_change(connection: AsyncConnection, stored: Any, parsed: ParsedSchedule) -> dict[str, Any]:
    """Return the columns of the next slot of a changed schedule.

    If its times have not changed, the next slot stays the same, so that a slot which has come but was not processed is not lost.
    """
    if stored.enabled and parsed.fields.enabled and parsed.rule == _find_stored_rule(stored):
        return {"next_at": stored.next_at, "planned_at": stored.planned_at}
    return {"next_at": await _find_next(connection, parsed)}


async def _read_clock(connection: AsyncConnection) -> datetime:
    """Return the time of the database, which beat uses too."""
    now: datetime = (await connection.execute(queries.NOW)).scalar_one()
    return now


def _find_stored_rule(row: Any) -> Rule | None:
    """Return the rule of a stored schedule, or None if this computer has no data of its time zone."""
    try:
        return find_rule(row)
    except UnusableSchedule:
        return None


def _audited(row: Any) -> dict[str, Any]:
    """Return what the audit log holds of a schedule: when it runs, and neither its name nor its params."""
    return {
        "kind": row.kind if row.workflow is None else None,
        "cron": row.cron,
        "every": row.every_seconds,
        "timezone": row.timezone,
        "enabled": row.enabled,
    }


def _etag(row: Any) -> str:
    return f'"{row.version}"'


def _as_body(row: Any, cipher: SecretCipher) -> dict[str, Any]:
    """Return a stored schedule as the body that would create it."""
    kind = find_kind(row.kind)
    params = row.params if kind is None else open_values(kind, row.params, cipher)
    task = {"kind": row.kind, "params": params, **row.options}
    return {
        "name": row.name,
        "enabled": row.enabled,
        "cron": row.cron,
        "every": row.every_seconds,
        "timezone": row.timezone,
        "starts_at": row.starts_at,
        "ends_at": row.ends_at,
        "missed": row.missed,
        "overlap": row.overlap,
        "jitter": row.jitter_seconds,
        **(task if row.workflow is None else {"workflow": _open_definition(row.workflow["definition"], cipher)}),
        **read_follow_up(row.follow_up, cipher),
    }


def _open_definition(definition: dict[str, Any], cipher: SecretCipher) -> dict[str, Any]:
    """Return a workflow as it was submitted, with the secrets of its steps."""
    return map_step_params(definition, lambda kind, params: open_values(kind, params, cipher))


def _schedule(row: Any, **more: Any) -> Schedule:
    options = TaskOptions.model_validate_json(orjson.dumps(row.options))
    follow_up = row.follow_up or {}
    notify = follow_up.get("notify")
    return Schedule(
        id=row.id,
        name=row.name,
        enabled=row.enabled,
        cron=row.cron,
        every=row.every_seconds,
        timezone=row.timezone,
        starts_at=row.starts_at,
        ends_at=row.ends_at,
        missed=row.missed,
        overlap=row.overlap,
        jitter=row.jitter_seconds,
        description=describe_rule(row),
        kind=row.kind if row.workflow is None else None,
        params=mask_value(row.params),
        workflow=mask_value(row.workflow["definition"]) if row.workflow is not None else None,
        priority=options.priority,
        ttl=options.ttl,
        max_attempts=options.max_attempts,
        timeout=options.timeout,
        keep_for=options.keep_for,
        tags=options.tags,
        metadata=options.metadata,
        backoff=options.backoff,
        concurrency=options.concurrency,
        rate=options.rate,
        webhook=ScheduleWebhook(url=follow_up["webhook_url"]) if "webhook_url" in follow_up else None,
        notify=ScheduleNotify(email=notify["submission"]["params"]["to"], on=notify["on"]) if notify else None,
        next_at=row.next_at if row.enabled else None,
        last_error=ScheduleError(**row.last_error) if row.last_error is not None else None,
        created_at=row.created_at,
        updated_at=row.updated_at,
        links=ScheduleLinks(self=f"/schedules/{row.id}", run=f"/schedules/{row.id}/run"),
        **more,
    )
