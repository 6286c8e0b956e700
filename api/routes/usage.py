"""`GET /usage`: what the caller and its organization use, and what they may use."""

from __future__ import annotations

from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Query, Request, Response
from pydantic import BeforeValidator, Field

from api.dependencies import EngineDependency, LimitReaderDependency, UsageReaderCaller
from api.http.answers import private_answer
from api.http.query_strings import StrictQuery, require_digits
from api.http.quota_refusals import seconds_left_today
from api.http.rate_limits import limited
from api.limits.limit_models import Quota, Usage, UsageOfDay, UsageOfSubject
from api.openapi.operations import ANY_CALLER, problem_responses
from shared.limits import Limits
from shared.queries import limits as queries

router = APIRouter(tags=["limits"])


class UsageQuery(StrictQuery):
    """How far back the history goes."""

    days: Annotated[
        int, BeforeValidator(require_digits), Field(ge=1, le=400, description="For how many days the history is shown.")
    ] = 30


@router.get(
    "/usage",
    summary="Show what is used and allowed",
    response_model=Usage,
    response_description="What is used and allowed, and the history by day.",
    responses=problem_responses(*ANY_CALLER),
)
@limited("read")
async def show_usage(
    request: Request,
    caller: UsageReaderCaller,
    engine: EngineDependency,
    limit_reader: LimitReaderDependency,
    query: Annotated[UsageQuery, Query()],
) -> Response:
    """Return what the caller's organization and the caller itself use and may use, and what was submitted by day."""
    held = await limit_reader.read(caller.organization_id, caller.owner_id)
    subject: dict[str, UUID | int | None] = {"organization_id": caller.organization_id, "caller_id": None}
    async with engine.connect() as connection:
        of_organization = (await connection.exec_driver_sql(queries.READ_USAGE, subject)).one()
        of_caller = (
            await connection.exec_driver_sql(queries.READ_USAGE, subject | {"caller_id": caller.owner_id})
        ).one()
        days = (await connection.exec_driver_sql(queries.LIST_USAGE_BY_DAY, subject | {"days": query.days})).all()
    return private_answer(
        Usage(
            organization_id=caller.organization_id,
            caller_id=caller.owner_id,
            day=of_organization.day,
            resets_in_seconds=seconds_left_today(),
            organization=_describe(of_organization, held.organization),
            caller=_describe(of_caller, held.caller),
            history=[
                UsageOfDay(day=row.day, tasks=row.tasks, emails=row.emails, recipients=row.recipients) for row in days
            ],
        )
    )


def _describe(row: Any, limits: Limits) -> UsageOfSubject:
    def quota(name: str) -> Quota:
        return Quota(used=max(0, getattr(row, name)), allowed=getattr(limits, name))

    return UsageOfSubject(
        tasks_per_day=quota("tasks_per_day"),
        live_tasks=quota("live_tasks"),
        stored_bytes=quota("stored_bytes"),
        emails_per_day=quota("emails_per_day"),
        recipients_per_day=quota("recipients_per_day"),
        limits=limits,
    )
