"""`/organizations/<id>/limits` and `/organizations/<id>/callers/<id>/limits`: what they may use at most."""

from __future__ import annotations

from typing import Annotated, Final
from uuid import UUID

from fastapi import APIRouter, Query, Request, Response
from sqlalchemy.ext.asyncio import AsyncConnection

from api.auditing.entries import audit
from api.auth.caller import Caller
from api.dependencies import EngineDependency, QuotaManagerCaller, SettingsDependency, UsageReaderCaller
from api.http.answers import private_answer
from api.http.body import json_body
from api.http.json_text import parse_body
from api.http.problems import FieldError, Problem, json_pointer
from api.http.query_strings import NoQuery
from api.http.rate_limits import limited
from api.limits.limit_models import SubjectLimits
from api.limits.limit_reader import list_own_limits, replace_limits
from api.openapi.operations import ANY_CALLER, json_body_of, problem_responses
from shared.audit.actions import AuditAction
from shared.limit_targets import list_unknown_targets
from shared.limits import Limits, Scope
from shared.permissions import Permission
from shared.queries import limits as queries
from shared.queries import organizations as organization_queries
from shared.tables.limits import DEFAULT_SUBJECT

router = APIRouter(tags=["limits"])
_EXAMPLE: Final = {"tasks_per_day": 10000, "live_tasks": 1000, "running_by_queue": {"reports": 2}}


@router.get(
    "/organizations/{organization_id}/limits",
    summary="Get the limits of an organization",
    response_model=SubjectLimits,
    response_description="Its own limits, and those that hold.",
    responses=problem_responses(*ANY_CALLER, "not-found"),
)
@limited("read")
async def get_organization_limits(
    request: Request,
    caller: UsageReaderCaller,
    engine: EngineDependency,
    organization_id: UUID,
    query: Annotated[NoQuery, Query()],
) -> Response:
    """Return the limits of the caller's own organization, or of any for operators and admins of the platform."""
    async with engine.connect() as connection:
        await _require_organization(connection, caller, organization_id)
        return private_answer(await _describe(connection, organization_id, None))


@router.put(
    "/organizations/{organization_id}/limits",
    summary="Replace the limits of an organization",
    response_model=SubjectLimits,
    response_description="The limits, which are in force within a second.",
    responses=problem_responses(*ANY_CALLER, "not-found", "unsupported-media-type"),
    openapi_extra=json_body_of("NewLimits", _EXAMPLE),
)
@limited("submit")
async def replace_organization_limits(
    request: Request,
    caller: QuotaManagerCaller,
    settings: SettingsDependency,
    engine: EngineDependency,
    organization_id: UUID,
    query: Annotated[NoQuery, Query()],
) -> Response:
    """Replace all limits of an organization. A limit that is left out is that of the settings again; null means no limit."""
    limits = _parse_limits(await json_body(request, settings.max_json_bytes))
    async with engine.begin() as connection:
        await _require_organization(connection, caller, organization_id)
        await _replace(connection, request, caller, organization_id, None, limits)
        return private_answer(await _describe(connection, organization_id, None))


@router.get(
    "/organizations/{organization_id}/callers/{caller_id}/limits",
    summary="Get the limits of a person or service",
    response_model=SubjectLimits,
    response_description="Its own limits, and those that hold.",
    responses=problem_responses(*ANY_CALLER, "not-found"),
)
@limited("read")
async def get_caller_limits(
    request: Request,
    caller: UsageReaderCaller,
    engine: EngineDependency,
    organization_id: UUID,
    caller_id: UUID,
    query: Annotated[NoQuery, Query()],
) -> Response:
    """Return the limits of a person or service of an organization. They hold within those of the organization."""
    async with engine.connect() as connection:
        await _require_caller(connection, caller, organization_id, caller_id)
        return private_answer(await _describe(connection, organization_id, caller_id))


@router.put(
    "/organizations/{organization_id}/callers/{caller_id}/limits",
    summary="Replace the limits of a person or service",
    response_model=SubjectLimits,
    response_description="The limits, which are in force within a second.",
    responses=problem_responses(*ANY_CALLER, "not-found", "unsupported-media-type"),
    openapi_extra=json_body_of("NewLimits", _EXAMPLE),
)
@limited("submit")
async def replace_caller_limits(
    request: Request,
    caller: QuotaManagerCaller,
    settings: SettingsDependency,
    engine: EngineDependency,
    organization_id: UUID,
    caller_id: UUID,
    query: Annotated[NoQuery, Query()],
) -> Response:
    """Replace all limits of a person or service. A limit that is left out is that of the settings; null means no limit."""
    limits = _parse_limits(await json_body(request, settings.max_json_bytes))
    async with engine.begin() as connection:
        await _require_caller(connection, caller, organization_id, caller_id)
        await _replace(connection, request, caller, organization_id, caller_id, limits)
        return private_answer(await _describe(connection, organization_id, caller_id))


def _parse_limits(body: bytes) -> Limits:
    """Return the limits of a body. Raises the problem `validation`."""
    limits = parse_body(Limits, body, strict=True)
    if unknown := list(list_unknown_targets(limits)):
        raise Problem(
            "validation",
            errors=[FieldError(json_pointer([one.limit, one.target]), "unknown", one.message) for one in unknown],
        )
    return limits


async def _require_organization(connection: AsyncConnection, caller: Caller, organization_id: UUID) -> None:
    """Raise `not-found` unless the organization exists and the caller may see its limits."""
    found = await connection.execute(organization_queries.find_organization(organization_id))
    if found.first() is None or not caller.has_for(Permission.USAGE_READ, organization_id):
        raise Problem("not-found", "There is no such organization, or you may not see it.")


async def _require_caller(connection: AsyncConnection, caller: Caller, organization_id: UUID, caller_id: UUID) -> None:
    """Raise `not-found` unless the person or service exists in the organization and the caller may see its limits."""
    await _require_organization(connection, caller, organization_id)
    found = await connection.exec_driver_sql(queries.FIND_CALLER, {"caller_id": caller_id})
    if found.scalar_one_or_none() != organization_id:
        raise Problem("not-found", "There is no such person or service in this organization.")


async def _replace(
    connection: AsyncConnection,
    request: Request,
    caller: Caller,
    organization_id: UUID,
    caller_id: UUID | None,
    limits: Limits,
) -> None:
    subject_id, scope = _subject(organization_id, caller_id)
    before = (await list_own_limits(connection, subject_id, scope)).for_audit()
    await replace_limits(connection, subject_id, scope, limits)
    after = limits.for_audit()
    whose = {} if caller_id is None else {"caller_id": str(caller_id)}
    for action, names in (
        (AuditAction.QUOTA_CHANGED, Limits.model_fields.keys() - {"requests_per_minute"}),
        (AuditAction.RATE_LIMIT_CHANGED, {"requests_per_minute"}),
    ):
        old, new = ({name: value for name, value in one.items() if name in names} for one in (before, after))
        if old != new:
            entry = {"before": {**whose, "limits": old}, "after": {**whose, "limits": new}}
            await audit(connection, request, caller, action, organization_id, organization_id, **entry)


async def _describe(connection: AsyncConnection, organization_id: UUID, caller_id: UUID | None) -> SubjectLimits:
    subject_id, scope = _subject(organization_id, caller_id)
    own = await list_own_limits(connection, subject_id, scope)
    defaults = await list_own_limits(connection, DEFAULT_SUBJECT, scope)
    return SubjectLimits(organization_id=organization_id, caller_id=caller_id, limits=own, effective=own.over(defaults))


def _subject(organization_id: UUID, caller_id: UUID | None) -> tuple[UUID, Scope]:
    return (organization_id, "organization") if caller_id is None else (caller_id, "caller")
