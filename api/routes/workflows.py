"""`/workflows`: tasks that are steps, each of which starts when the steps before it have ended."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Final, Literal
from uuid import UUID

from fastapi import APIRouter, Query, Request, Response

from api.dependencies import (
    ActorDependency,
    NoBody,
    SettingsDependency,
    SubmissionsDependency,
    SubmitterCaller,
    TaskActorCaller,
    TaskDeleterCaller,
    TaskReaderCaller,
    WaitersDependency,
    WorkflowActionsDependency,
    WorkflowsDependency,
)
from api.following.task_models import Valid
from api.following.waiting_requests import wait_for_all
from api.http.answers import PRIVATE_HEADERS, private_answer, private_json
from api.http.body import json_body
from api.http.headers import find_header
from api.http.list_formats import ACCEPT, FORMAT_RESPONSES, Page, answer_list, columns_of, dump_item
from api.http.query_strings import NoQuery, PageQuery, WaitForAllQuery, read_validate_only
from api.http.rate_limits import limited
from api.openapi.operations import ANY_CALLER, ANY_SUBMISSION, PREFER, problem_responses, submission_body
from api.openapi.submission_schemas import ref
from api.submitting.idempotency import read_idempotency_key
from api.submitting.submissions import submission_request
from api.workflows.workflow_models import Workflow, WorkflowPage, WorkflowSummary
from api.workflows.workflow_parsing import parse_workflow

router = APIRouter(tags=["workflows"])
_EXAMPLE: Final = {
    "name": "thumbnails by email",
    "steps": [
        {
            "name": "make",
            "kind": "files.make_images",
            "params": {
                "file_id": "0199c0de-0000-7000-8000-000000000001",
                "variants": [{"name": "small", "width": 320, "format": "webp"}],
            },
        },
        {
            "name": "send",
            "kind": "email.send",
            "params": {
                "to": ["ada@example.com"],
                "subject": "Your pictures",
                "text": "They are attached.",
                "attachments": [{"file_id": {"$from": "make.artifacts.0.id"}}],
            },
        },
    ],
}


@router.post(
    "/workflows",
    status_code=202,
    summary="Submit a workflow",
    responses={
        200: {"model": Valid, "description": "The workflow is valid, and nothing was stored (`validate_only`)."},
        202: {"model": Workflow, "description": "The workflow, which is committed."},
        **problem_responses(*ANY_SUBMISSION),
    },
    openapi_extra=submission_body(
        ref("WorkflowSubmission"), {"images": {"summary": "Make images and send them by email", "value": _EXAMPLE}}
    ),
)
@limited("submit")
async def submit_workflow(
    request: Request,
    caller: SubmitterCaller,
    settings: SettingsDependency,
    submissions: SubmissionsDependency,
    actions: WorkflowActionsDependency,
) -> Response:
    """Store a workflow with its tasks. Steps without others before them start at once."""
    validate_only = read_validate_only(request.scope["query_string"])
    key = read_idempotency_key(find_header(request, "idempotency-key"))
    body = await json_body(request, settings.max_batch_bytes)
    parsed = parse_workflow(body, caller)
    if validate_only:
        await submissions.check_files(parsed.submissions, caller)
        return private_json(b'{"valid":true}')
    answer = await actions.submit(parsed, submission_request(request, caller, body, key))
    return private_json(answer.body, answer.status, answer.headers())


class ListQuery(PageQuery):
    """The filter of a list of workflows, and the page."""

    status: Literal["running", "succeeded", "failed", "cancelled"] | None = None


@router.get(
    "/workflows",
    summary="List workflows, newest first",
    responses={
        200: {"model": WorkflowPage, "description": "A page of workflows.", "content": FORMAT_RESPONSES},
        **problem_responses(*ANY_CALLER, "not-acceptable"),
    },
    openapi_extra={"parameters": [ACCEPT]},
)
@limited("read")
async def list_workflows(
    request: Request,
    caller: TaskReaderCaller,
    settings: SettingsDependency,
    workflows: WorkflowsDependency,
    query: Annotated[ListQuery, Query()],
) -> Response:
    """Return the workflows that the caller may see, without their steps."""
    status = [query.status] if query.status is not None else None

    async def read(before_id: UUID | None, limit: int) -> Page:
        rows = await workflows.list_page(caller, before_id, limit + 1, status)
        return Page([dump_item(row) for row in rows[:limit]], rows[limit - 1].id if len(rows) > limit else None)

    columns = columns_of(WorkflowSummary, "links")
    return await answer_list(request, settings, query, read=read, columns=columns)


@router.get(
    "/workflows/{workflow_id}",
    summary="Get a workflow with its steps",
    response_model=Workflow,
    response_description="The workflow.",
    responses=problem_responses(*ANY_CALLER, "not-found", "gone"),
    openapi_extra={"parameters": [PREFER]},
)
@limited("read")
async def get_workflow(
    request: Request,
    workflow_id: UUID,
    caller: TaskReaderCaller,
    workflows: WorkflowsDependency,
    waiters: WaitersDependency,
    query: Annotated[WaitForAllQuery, Query()],
) -> Response:
    """Return a workflow, and for each step its status, the steps before it, and its task.

    With `wait`, the answer comes once the workflow is done.
    """
    workflow = await workflows.require(workflow_id, caller)
    find_live = partial(workflows.find_live_task, workflow_id)
    has_waited, headers = await wait_for_all(request, waiters, caller, find_live, done=workflow.done)
    return private_answer(await workflows.require(workflow_id, caller) if has_waited else workflow, headers=headers)


@router.post(
    "/workflows/{workflow_id}/cancel",
    status_code=202,
    summary="Cancel what is left of a workflow",
    response_model=Workflow,
    response_description="The workflow.",
    responses=problem_responses(*ANY_CALLER, "not-found", "gone", "workflow-done", "unsupported-media-type"),
)
@limited("submit")
async def cancel_workflow(
    request: Request,
    workflow_id: UUID,
    caller: TaskActorCaller,
    actor: ActorDependency,
    workflows: WorkflowsDependency,
    actions: WorkflowActionsDependency,
    query: Annotated[NoQuery, Query()],
    body: NoBody,
) -> Response:
    """Cancel the steps that have not ended. Running ones stop soon; no further step starts."""
    await workflows.require(workflow_id, caller)
    await actions.cancel(workflow_id, caller, actor)
    return private_answer(await workflows.require(workflow_id, caller), 202)


@router.delete(
    "/workflows/{workflow_id}",
    status_code=204,
    summary="Delete a workflow that is done",
    response_description="The workflow, its tasks and their artifacts are erased.",
    responses=problem_responses(*ANY_CALLER, "not-found", "gone", "workflow-not-done", "file-in-use"),
)
@limited("submit")
async def delete_workflow(
    request: Request,
    workflow_id: UUID,
    caller: TaskDeleterCaller,
    actor: ActorDependency,
    workflows: WorkflowsDependency,
    actions: WorkflowActionsDependency,
    query: Annotated[NoQuery, Query()],
) -> Response:
    """Erase a workflow with its tasks, their artifacts and payloads."""
    await workflows.require(workflow_id, caller)
    await actions.delete(workflow_id, caller, actor)
    return Response(status_code=204, headers=dict(PRIVATE_HEADERS))
