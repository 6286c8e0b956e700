"""FastAPI dependencies of the routes: the caller, and the objects that `api/services.py` builds."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Annotated, Any
from uuid import UUID

from fastapi import Depends, Request
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine
from starlette.requests import HTTPConnection

from api.auditing.entries import describe_actor
from api.auth.caller import Caller
from api.auth.provider_sign_in import ProviderSignIn
from api.auth.registration import Registrations
from api.auth.route_permissions import declare_permissions, declare_person
from api.auth.sessions import Sessions
from api.auth.sign_in import SignIn
from api.auth.signing import TokenSigner
from api.following.task_actions import TaskActions
from api.following.task_reader import TaskReader
from api.following.waiters import Waiters
from api.http.body import read_body, require_json
from api.http.client_network import find_client_network
from api.http.headers import find_header
from api.http.json_text import load_json
from api.http.problems import Problem, invalid
from api.http.rate_limits import RateLimits
from api.http.sign_in_limits import SignInLimits
from api.limits.limit_reader import LimitReader
from api.queues.queue_reader import QueueReader
from api.queues.wait_estimates import WaitEstimates
from api.queues.waiting import WaitingReader
from api.readiness import ReadinessChecks
from api.services import Services
from api.streaming.stream_opener import StreamOpener
from api.streaming.stream_tokens import read_token_key
from api.streaming.streams import OpenStreams
from api.submitting.idempotency import IdempotencyKeys
from api.submitting.parsing import unknown_fields
from api.submitting.queue_bounds import QueueBounds
from api.submitting.submissions import Submissions
from api.webhooks.receiver_hosts import ReceiverHosts
from api.workflows.workflow_actions import WorkflowActions
from api.workflows.workflow_reader import WorkflowReader
from shared.audit.entries import Actor
from shared.permissions import Permission
from shared.settings import Settings
from shared.storage.object_store import ObjectStore
from shared.stored_secrets import SecretCipher


def _services(connection: HTTPConnection) -> Services:
    services: Services = connection.app.state.services
    return services


def get_settings(connection: HTTPConnection) -> Settings:
    """Return the settings of the process."""
    return _services(connection).settings


def get_engine(connection: HTTPConnection) -> AsyncEngine:
    """Return the engine for transactions."""
    return _services(connection).engine


def get_reads(connection: HTTPConnection) -> AsyncEngine:
    """Return the engine for single reads, each committed by itself."""
    return _services(connection).reads


def get_store(connection: HTTPConnection) -> ObjectStore:
    """Return the storage of files."""
    return _services(connection).store


def get_readiness_checks(connection: HTTPConnection) -> ReadinessChecks:
    """Return the checks of what the API depends on."""
    return _services(connection).readiness


def get_task_reader(connection: HTTPConnection) -> TaskReader:
    """Return the reader of tasks."""
    return _services(connection).reader


def get_streams(connection: HTTPConnection) -> StreamOpener:
    """Return the object that opens streams."""
    return _services(connection).streams


def get_open_streams(connection: HTTPConnection) -> OpenStreams:
    """Return the number of open streams of each caller."""
    return _services(connection).open_streams


def get_limits(connection: HTTPConnection) -> RateLimits:
    """Return the rate limits."""
    return _services(connection).limits


def get_task_actions(connection: HTTPConnection) -> TaskActions:
    """Return the object that cancels, retries and deletes tasks."""
    return _services(connection).task_actions


def get_submissions(connection: HTTPConnection) -> Submissions:
    """Return the object that stores submissions."""
    return _services(connection).submissions


def get_waiters(connection: HTTPConnection) -> Waiters:
    """Return the waiting requests of the process."""
    return _services(connection).waiters


def get_receiver_hosts(connection: HTTPConnection) -> ReceiverHosts:
    """Return the check of the hosts of webhooks."""
    return _services(connection).receiver_hosts


def get_cipher(connection: HTTPConnection) -> SecretCipher:
    """Return what encrypts stored secrets."""
    return _services(connection).cipher


def get_queue_bounds(connection: HTTPConnection) -> QueueBounds:
    """Return the bounds on queued tasks."""
    return _services(connection).queue_bounds


def get_queues(connection: HTTPConnection) -> QueueReader:
    """Return the reader of queues and workers."""
    return _services(connection).queues


def get_wait_estimates(connection: HTTPConnection) -> WaitEstimates:
    """Return the estimates of how long tasks wait."""
    return _services(connection).wait_estimates


def get_waiting(connection: HTTPConnection) -> WaitingReader:
    """Return the object that finds why tasks wait."""
    return _services(connection).waiting


def get_workflows(connection: HTTPConnection) -> WorkflowReader:
    """Return the reader of workflows."""
    return _services(connection).workflows


def get_workflow_actions(connection: HTTPConnection) -> WorkflowActions:
    """Return the object that stores, cancels and deletes workflows."""
    return _services(connection).workflow_actions


def get_idempotency_keys(connection: HTTPConnection) -> IdempotencyKeys:
    """Return the object that finds and reserves idempotency keys."""
    return _services(connection).idempotency_keys


def get_sign_in_limits(connection: HTTPConnection) -> SignInLimits:
    """Return the limits of signing in."""
    return _services(connection).sign_in_limits


def get_limit_reader(connection: HTTPConnection) -> LimitReader:
    """Return the reader of limits."""
    return _services(connection).limit_reader


def get_signer(connection: HTTPConnection) -> TokenSigner:
    """Return what signs and verifies access tokens."""
    return _services(connection).signer


def get_sessions(connection: HTTPConnection) -> Sessions:
    """Return the sessions of people."""
    return _services(connection).sessions


def get_sign_in(connection: HTTPConnection) -> SignIn:
    """Return what signs people in."""
    return _services(connection).sign_in


def get_provider_sign_in(connection: HTTPConnection) -> ProviderSignIn:
    """Return what signs people in with the provider."""
    return _services(connection).provider_sign_in


def get_registrations(connection: HTTPConnection) -> Registrations:
    """Return what registers people."""
    return _services(connection).registrations


async def authenticate(connection: HTTPConnection) -> Caller:
    """Return the caller, and store it in the request's state for the rate limits. Raises `unauthorized`."""
    services = _services(connection)
    authorization, api_key = find_header(connection, "authorization"), find_header(connection, "x-api-key")
    address = connection.client.host if connection.client else None
    return await _identify(connection, services.authenticator.caller(authorization, api_key, address))


async def _identify(connection: HTTPConnection, identifying: Coroutine[None, None, Caller]) -> Caller:
    try:
        caller = await identifying
    except Problem as problem:
        network = find_client_network(connection.scope)
        problem.headers |= _services(connection).limits.count_refused(network)
        raise
    connection.state.caller = caller
    await _services(connection).limit_reader.read_known(caller.organization_id, caller.owner_id)
    return caller


async def authenticate_stream(connection: HTTPConnection, task_id: UUID, *, is_open: bool = False) -> Caller:
    """Return the caller of a task's stream, by a key or by a stream token in the query. Raises `unauthorized`."""
    token = connection.query_params.get("token")
    if token is None:
        return await authenticate(connection)
    services = _services(connection)

    async def identify() -> Caller:
        prefix = read_token_key(services.settings, token, task_id, is_open=is_open)
        return await services.authenticator.caller_of_key(prefix)

    return await _identify(connection, identify())


async def stream_caller(connection: HTTPConnection, task_id: UUID) -> Caller:
    """Return the caller of a task's stream. Raises `unauthorized` or `forbidden`."""
    caller = await authenticate_stream(connection, task_id)
    caller.require(Permission.TASKS_READ)
    return caller


declare_permissions(stream_caller, (Permission.TASKS_READ,))


async def is_allowed(connection: HTTPConnection, *permissions: Permission, task_id: UUID | None = None) -> bool:
    """Return whether the key of a request is valid now and has all of the permissions, for requests that last.

    It must also have the same rights as when the request began, because they decide what the request shows: a caller whose role
    changed begins again. With `task_id`, the request may have been opened with a stream token of this task. While the database
    does not answer, so that there is nothing to read either, the key counts as valid until the next check.
    """
    first: Caller | None = getattr(connection.state, "caller", None)
    try:
        if task_id is None:
            caller = await authenticate(connection)
        else:
            caller = await authenticate_stream(connection, task_id, is_open=True)
        caller.require(*permissions)
    except Problem:
        return False
    except (SQLAlchemyError, OSError):
        return True
    return first is None or caller.rights == first.rights


@declare_person
async def person_caller(caller: Annotated[Caller, Depends(authenticate)]) -> Caller:
    """Return a caller that is a signed-in person. Raises `sign-in-required` for a request with an API key."""
    caller.require_session()
    return caller


def caller_with(*permissions: Permission) -> Any:
    """Return a dependency that requires a caller with all of the permissions. It declares what the route needs."""

    async def require(caller: Annotated[Caller, Depends(authenticate)]) -> Caller:
        caller.require(*permissions)
        return caller

    return Depends(declare_permissions(require, permissions))


async def get_actor(connection: HTTPConnection, caller: Annotated[Caller, Depends(authenticate)]) -> Actor:
    """Return who makes the request, and from where, for entries of the audit log."""
    return describe_actor(connection, caller)


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
ActorDependency = Annotated[Actor, Depends(get_actor)]
SettingsDependency = Annotated[Settings, Depends(get_settings)]
EngineDependency = Annotated[AsyncEngine, Depends(get_engine)]
ReadsDependency = Annotated[AsyncEngine, Depends(get_reads)]
StoreDependency = Annotated[ObjectStore, Depends(get_store)]
ReadinessDependency = Annotated[ReadinessChecks, Depends(get_readiness_checks)]
TasksDependency = Annotated[TaskReader, Depends(get_task_reader)]
StreamsDependency = Annotated[StreamOpener, Depends(get_streams)]
OpenStreamsDependency = Annotated[OpenStreams, Depends(get_open_streams)]
LimitsDependency = Annotated[RateLimits, Depends(get_limits)]
TaskActionsDependency = Annotated[TaskActions, Depends(get_task_actions)]
SubmissionsDependency = Annotated[Submissions, Depends(get_submissions)]
QueueBoundsDependency = Annotated[QueueBounds, Depends(get_queue_bounds)]
QueuesDependency = Annotated[QueueReader, Depends(get_queues)]
WaitEstimatesDependency = Annotated[WaitEstimates, Depends(get_wait_estimates)]
WaitingDependency = Annotated[WaitingReader, Depends(get_waiting)]
WorkflowsDependency = Annotated[WorkflowReader, Depends(get_workflows)]
WorkflowActionsDependency = Annotated[WorkflowActions, Depends(get_workflow_actions)]
IdempotencyKeysDependency = Annotated[IdempotencyKeys, Depends(get_idempotency_keys)]
SignerDependency = Annotated[TokenSigner, Depends(get_signer)]
SessionsDependency = Annotated[Sessions, Depends(get_sessions)]
SignInDependency = Annotated[SignIn, Depends(get_sign_in)]
ProviderSignInDependency = Annotated[ProviderSignIn, Depends(get_provider_sign_in)]
RegistrationsDependency = Annotated[Registrations, Depends(get_registrations)]
TaskStreamCaller = Annotated[Caller, Depends(stream_caller)]
WaitersDependency = Annotated[Waiters, Depends(get_waiters)]
ReceiverHostsDependency = Annotated[ReceiverHosts, Depends(get_receiver_hosts)]
CipherDependency = Annotated[SecretCipher, Depends(get_cipher)]
TaskReaderCaller = Annotated[Caller, caller_with(Permission.TASKS_READ)]
TaskContentCaller = Annotated[Caller, caller_with(Permission.TASKS_READ_CONTENT)]
SubmitterCaller = Annotated[Caller, caller_with(Permission.TASKS_SUBMIT)]
TaskActorCaller = Annotated[Caller, caller_with(Permission.TASKS_ACT)]
TaskDeleterCaller = Annotated[Caller, caller_with(Permission.TASKS_DELETE)]
FileReaderCaller = Annotated[Caller, caller_with(Permission.FILES_READ)]
FileDeleterCaller = Annotated[Caller, caller_with(Permission.FILES_DELETE)]
UploaderCaller = Annotated[Caller, caller_with(Permission.TASKS_SUBMIT, Permission.FILES_UPLOAD)]
ScheduleReaderCaller = Annotated[Caller, caller_with(Permission.SCHEDULES_READ)]
ScheduleManagerCaller = Annotated[Caller, caller_with(Permission.SCHEDULES_MANAGE)]
WebhookReaderCaller = Annotated[Caller, caller_with(Permission.WEBHOOKS_READ)]
WebhookManagerCaller = Annotated[Caller, caller_with(Permission.WEBHOOKS_MANAGE)]
UsageReaderCaller = Annotated[Caller, caller_with(Permission.USAGE_READ)]
QuotaManagerCaller = Annotated[Caller, caller_with(Permission.QUOTAS_MANAGE)]
LimitReaderDependency = Annotated[LimitReader, Depends(get_limit_reader)]
SignInLimitsDependency = Annotated[SignInLimits, Depends(get_sign_in_limits)]
PersonCaller = Annotated[Caller, Depends(person_caller)]
UserManagerCaller = Annotated[Caller, caller_with(Permission.USERS_MANAGE)]
MemberManagerCaller = Annotated[Caller, caller_with(Permission.MEMBERS_MANAGE)]
OverviewCaller = Annotated[Caller, caller_with(Permission.OVERVIEW_READ)]
