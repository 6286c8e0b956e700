"""FastAPI dependencies of the routes: the caller, and the objects that `api/services.py` builds."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Depends, Request
from sqlalchemy.ext.asyncio import AsyncEngine

from api.auth.authentication import Caller
from api.following.event_streams import EventReader
from api.following.task_actions import TaskActions
from api.following.task_reader import TaskReader
from api.following.waiters import Waiters
from api.http.body import read_body, require_json
from api.http.headers import find_header
from api.http.json_text import load_json
from api.http.problems import Problem, invalid
from api.queues.queue_reader import QueueReader
from api.queues.wait_estimates import WaitEstimates
from api.queues.waiting import WaitingReader
from api.readiness import ReadinessChecks
from api.services import Services
from api.submitting.idempotency import IdempotencyKeys
from api.submitting.parsing import unknown_fields
from api.submitting.queue_bounds import QueueBounds
from api.submitting.submissions import Submissions
from api.workflows.workflow_actions import WorkflowActions
from api.workflows.workflow_reader import WorkflowReader
from shared.settings import Settings
from shared.storage.object_store import ObjectStore


def _services(request: Request) -> Services:
    services: Services = request.app.state.services
    return services


def get_settings(request: Request) -> Settings:
    """Return the settings of the process."""
    return _services(request).settings


def get_engine(request: Request) -> AsyncEngine:
    """Return the engine for transactions."""
    return _services(request).engine


def get_reads(request: Request) -> AsyncEngine:
    """Return the engine for single reads, each committed by itself."""
    return _services(request).reads


def get_store(request: Request) -> ObjectStore:
    """Return the storage of files."""
    return _services(request).store


def get_readiness_checks(request: Request) -> ReadinessChecks:
    """Return the checks of what the API depends on."""
    return _services(request).readiness


def get_task_reader(request: Request) -> TaskReader:
    """Return the reader of tasks."""
    return _services(request).reader


def get_events(request: Request) -> EventReader:
    """Return the reader of tasks' histories."""
    return _services(request).events


def get_waiters(request: Request) -> Waiters:
    """Return the waiting requests of the process."""
    return _services(request).waiters


def get_task_actions(request: Request) -> TaskActions:
    """Return the object that cancels, retries and deletes tasks."""
    return _services(request).task_actions


def get_submissions(request: Request) -> Submissions:
    """Return the object that stores submissions."""
    return _services(request).submissions


def get_queue_bounds(request: Request) -> QueueBounds:
    """Return the bounds on queued tasks."""
    return _services(request).queue_bounds


def get_queues(request: Request) -> QueueReader:
    """Return the reader of queues and workers."""
    return _services(request).queues


def get_wait_estimates(request: Request) -> WaitEstimates:
    """Return the estimates of how long tasks wait."""
    return _services(request).wait_estimates


def get_waiting(request: Request) -> WaitingReader:
    """Return the object that finds why tasks wait."""
    return _services(request).waiting


def get_workflows(request: Request) -> WorkflowReader:
    """Return the reader of workflows."""
    return _services(request).workflows


def get_workflow_actions(request: Request) -> WorkflowActions:
    """Return the object that stores, cancels and deletes workflows."""
    return _services(request).workflow_actions


def get_idempotency_keys(request: Request) -> IdempotencyKeys:
    """Return the object that finds and reserves idempotency keys."""
    return _services(request).idempotency_keys


async def authenticate(request: Request) -> Caller:
    """Return the caller, and store it in the request's state for the rate limits. Raises `unauthorized`."""
    services = _services(request)
    try:
        caller = await services.authenticator.caller(
            find_header(request, "authorization"), find_header(request, "x-api-key")
        )
    except Problem as problem:
        problem.headers |= services.limits.count_refused(request.client.host if request.client else "")
        raise
    request.state.caller = caller
    return caller


async def is_allowed(request: Request, *scopes: str) -> bool:
    """Return whether the key of a request is valid now and has all of the scopes, for requests that last."""
    try:
        (await authenticate(request)).require(*scopes)
    except Problem:
        return False
    return True


def caller_with(*scopes: str) -> Any:
    """Return a dependency that requires a caller with all of the scopes."""

    async def require(caller: Annotated[Caller, Depends(authenticate)]) -> Caller:
        caller.require(*scopes)
        return caller

    require.__name__ = "caller_with_" + "_".join(scope.replace(":", "_") for scope in scopes)
    return Depends(require)


async def refuse_body(request: Request) -> None:
    """Raise a problem if the body has any content, because its fields would be ignored silently."""
    limit_bytes = _services(request).settings.max_json_bytes
    body = (await read_body(request.scope, request.receive, limit_bytes)).strip()
    if body in {b"", b"{}"}:
        return
    require_json(request)
    content = load_json(body)
    if not isinstance(content, dict):
        raise invalid("", "dict_type", "Input should be an object")
    if content:
        raise Problem("validation", errors=unknown_fields(content))


NoBody = Annotated[None, Depends(refuse_body)]
SettingsDependency = Annotated[Settings, Depends(get_settings)]
EngineDependency = Annotated[AsyncEngine, Depends(get_engine)]
ReadsDependency = Annotated[AsyncEngine, Depends(get_reads)]
StoreDependency = Annotated[ObjectStore, Depends(get_store)]
ReadinessDependency = Annotated[ReadinessChecks, Depends(get_readiness_checks)]
TasksDependency = Annotated[TaskReader, Depends(get_task_reader)]
EventsDependency = Annotated[EventReader, Depends(get_events)]
WaitersDependency = Annotated[Waiters, Depends(get_waiters)]
TaskActionsDependency = Annotated[TaskActions, Depends(get_task_actions)]
SubmissionsDependency = Annotated[Submissions, Depends(get_submissions)]
QueueBoundsDependency = Annotated[QueueBounds, Depends(get_queue_bounds)]
QueuesDependency = Annotated[QueueReader, Depends(get_queues)]
WaitEstimatesDependency = Annotated[WaitEstimates, Depends(get_wait_estimates)]
WaitingDependency = Annotated[WaitingReader, Depends(get_waiting)]
WorkflowsDependency = Annotated[WorkflowReader, Depends(get_workflows)]
WorkflowActionsDependency = Annotated[WorkflowActions, Depends(get_workflow_actions)]
IdempotencyKeysDependency = Annotated[IdempotencyKeys, Depends(get_idempotency_keys)]
TaskReaderCaller = Annotated[Caller, caller_with("tasks:read")]
TaskWriterCaller = Annotated[Caller, caller_with("tasks:write")]
FileReaderCaller = Annotated[Caller, caller_with("files:read")]
FileWriterCaller = Annotated[Caller, caller_with("files:write")]
UploaderCaller = Annotated[Caller, caller_with("tasks:write", "files:write")]
