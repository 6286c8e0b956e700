"""`/audit`: who did what, to which resource, from where."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query, Request, Response
from pydantic import Field

from api.auditing.audit_models import AUDIT_COLUMNS, AuditPage, entry_model
from api.auth.caller import Caller
from api.dependencies import ReadsDependency, SettingsDependency, caller_with
from api.http.list_formats import ACCEPT, FORMAT_RESPONSES, Page, answer_list, make_page
from api.http.problems import invalid, nul_character
from api.http.query_strings import PageQuery
from api.http.rate_limits import limited
from api.openapi.operations import ANY_CALLER, problem_responses
from shared.audit.actions import AuditAction
from shared.permissions import Permission
from shared.queries import audit as queries
from shared.tasks.timestamps import Timestamp

router = APIRouter(tags=["audit"])
AuditReaderCaller = Annotated[Caller, caller_with(Permission.AUDIT_READ)]


class AuditQuery(PageQuery):
    """The page of the audit log, and its filters."""

    actor: Annotated[UUID | None, Field(description="The id of a caller, of a person or of an API key.")] = None
    action: Annotated[str | None, Field(description="One or more actions, separated by commas.")] = None
    resource_type: Annotated[str | None, Field(max_length=100, description="Such as `schedule`.")] = None
    resource_id: Annotated[str | None, Field(max_length=200)] = None
    organization_id: Annotated[UUID | None, Field(description="Whose the resource is.")] = None
    request_id: Annotated[str | None, Field(max_length=200, description="An `X-Request-ID`.")] = None
    created_after: Annotated[Timestamp | None, Field(description="Entries of this moment or later.")] = None
    created_before: Annotated[Timestamp | None, Field(description="Entries earlier than this moment.")] = None

    def read_filter(self, reach: UUID | None) -> queries.EntryFilter | None:
        """Return the filter, or None if no entry can fit it. `reach` is the only organization to list, or None for all.

        Raises the problem `validation`.
        """
        for name in ("resource_type", "resource_id", "request_id"):
            if "\x00" in (getattr(self, name) or ""):
                raise nul_character(f"query:{name}")
        actions = tuple(dict.fromkeys(self.action.split(","))) if self.action is not None else ()
        if unknown := set(actions) - set(AuditAction):
            known = ", ".join(AuditAction)
            raise invalid("query:action", "enum", f"Unknown: {min(unknown)[:50]!r}. The actions are: {known}.")
        if reach is not None and self.organization_id not in {None, reach}:
            return None
        return queries.EntryFilter(
            organization_id=reach or self.organization_id,
            actor_id=self.actor,
            actions=actions,
            resource_type=self.resource_type,
            resource_id=self.resource_id,
            request_id=self.request_id,
            since=self.created_after,
            before=self.created_before,
        )


@router.get(
    "/audit",
    summary="List the audit log, newest first",
    responses={
        200: {"model": AuditPage, "description": "A page of the audit log.", "content": FORMAT_RESPONSES},
        **problem_responses(*ANY_CALLER, "not-acceptable"),
    },
    openapi_extra={"parameters": [ACCEPT]},
)
@limited("read")
async def list_audit(
    request: Request,
    caller: AuditReaderCaller,
    settings: SettingsDependency,
    reads: ReadsDependency,
    query: Annotated[AuditQuery, Query()],
) -> Response:
    """Return who changed keys, members, limits, webhooks, schedules and pauses, acted on what others own, or signed in.

    Admins of an organization see the entries about what belongs to it; admins of the platform see all. An entry holds ids and no
    names, and never a secret, params or results.
    """
    which = query.read_filter(caller.reach_of(Permission.AUDIT_READ))

    async def read(before_id: UUID | None, limit: int) -> Page:
        if which is None:
            return Page([], None)
        async with reads.connect() as connection:
            rows = (await connection.execute(queries.list_entries(which, before_id, limit + 1))).all()
        return make_page(rows, limit, entry_model)

    return await answer_list(request, settings, query, read=read, columns=AUDIT_COLUMNS)
