"""`/invitations`: inviting people to an organization, and accepting an invitation."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query, Request, Response

from api.auditing.entries import audit
from api.auth.auth_models import Invitation, InvitationPage, InvitationToken, NewInvitation, User
from api.auth.clients import read_client
from api.auth.people_reader import read_user, show_invitation
from api.dependencies import (
    EngineDependency,
    MemberManagerCaller,
    PersonCaller,
    ReadsDependency,
    RegistrationsDependency,
    SettingsDependency,
)
from api.http.answers import PRIVATE_HEADERS, private_answer
from api.http.body import json_body
from api.http.json_text import parse_body
from api.http.list_formats import ACCEPT, FORMAT_RESPONSES, Page, answer_list, columns_of, make_page
from api.http.problems import Problem, invalid
from api.http.query_strings import NoQuery, PageQuery
from api.http.rate_limits import limited
from api.openapi.operations import ANY_CALLER, json_body_of, problem_responses
from shared.audit.actions import AuditAction
from shared.permissions import Permission
from shared.queries import organizations as organization_queries
from shared.queries import people as queries

router = APIRouter(tags=["users"])


@router.post(
    "/invitations",
    status_code=201,
    summary="Invite a person to an organization",
    response_model=Invitation,
    response_description="The invitation. Its token is in the email only.",
    responses=problem_responses(*ANY_CALLER, "conflict", "registration-closed", "unsupported-media-type"),
    openapi_extra=json_body_of("NewInvitation", {"email": "ada@example.com", "role": "client"}),
)
@limited("submit")
async def create_invitation(
    request: Request,
    caller: MemberManagerCaller,
    settings: SettingsDependency,
    registrations: RegistrationsDependency,
    reads: ReadsDependency,
    query: Annotated[NoQuery, Query()],
) -> Response:
    """Send an email with the token of an invitation, which can be used once, by the person with that address."""
    body = parse_body(NewInvitation, await json_body(request, settings.max_json_bytes))
    organization_id = _read_organization(body.organization_id) or caller.organization_id
    async with reads.connect() as connection:
        is_there = (
            await connection.execute(organization_queries.has_enabled_organization(organization_id))
        ).scalar_one()
    if not is_there or not caller.has_for(Permission.MEMBERS_MANAGE, organization_id):
        raise invalid("/organization_id", "unknown_organization", "There is no such organization, or it is not yours.")
    row = await registrations.invite(body.email, organization_id, body.role, request, caller)
    return private_answer(show_invitation(row), 201, {"Location": f"/invitations/{row.id}"})


@router.get(
    "/invitations",
    summary="List invitations, newest first",
    responses={
        200: {"model": InvitationPage, "description": "A page of invitations.", "content": FORMAT_RESPONSES},
        **problem_responses(*ANY_CALLER, "not-acceptable"),
    },
    openapi_extra={"parameters": [ACCEPT]},
)
@limited("read")
async def list_invitations(
    request: Request,
    caller: MemberManagerCaller,
    settings: SettingsDependency,
    reads: ReadsDependency,
    query: Annotated[PageQuery, Query()],
) -> Response:
    """Return the invitations that can be accepted still; admins of the platform see those of every organization."""

    async def read(before_id: UUID | None, limit: int) -> Page:
        async with reads.connect() as connection:
            statement = queries.list_invitations(caller.reach_of(Permission.MEMBERS_MANAGE), before_id, limit + 1)
            rows = (await connection.execute(statement)).all()
        return make_page(rows, limit, show_invitation)

    columns = columns_of(Invitation)
    return await answer_list(request, settings, query, read=read, columns=columns)


@router.delete(
    "/invitations/{invitation_id}",
    status_code=204,
    summary="Take an invitation back",
    response_description="The invitation can no longer be accepted.",
    responses=problem_responses(*ANY_CALLER, "not-found"),
)
@limited("submit")
async def delete_invitation(
    request: Request,
    invitation_id: UUID,
    caller: MemberManagerCaller,
    engine: EngineDependency,
    query: Annotated[NoQuery, Query()],
) -> Response:
    """Delete an invitation that was not accepted."""
    async with engine.begin() as connection:
        statement = queries.delete_invitation(invitation_id, caller.reach_of(Permission.MEMBERS_MANAGE))
        row = (await connection.execute(statement)).one_or_none()
        if row is None:
            raise Problem("not-found")
        await audit(
            connection,
            request,
            caller,
            AuditAction.PERSON_INVITED,
            invitation_id,
            row.organization_id,
            after={"taken_back": True},
        )
    return Response(status_code=204, headers=dict(PRIVATE_HEADERS))


@router.post(
    "/invitations/accept",
    summary="Accept an invitation",
    response_model=User,
    response_description="You, as a member of the organization.",
    responses=problem_responses(*ANY_CALLER, "sign-in-required", "not-found", "unsupported-media-type"),
    openapi_extra=json_body_of("InvitationToken", {"invitation": "tmi_…"}),
)
@limited("submit")
async def accept_invitation(
    request: Request,
    caller: PersonCaller,
    settings: SettingsDependency,
    registrations: RegistrationsDependency,
    reads: ReadsDependency,
    query: Annotated[NoQuery, Query()],
) -> Response:
    """Become a member of an organization. To act for it, sign in again and name it as `organization`.

    Whoever has no account accepts by `POST /auth/register`.
    """
    person_id, _ = caller.require_session()
    body = parse_body(InvitationToken, await json_body(request, settings.max_json_bytes))
    await registrations.accept(body.invitation, person_id, read_client(request))
    return private_answer(await read_user(reads, person_id))


def _read_organization(text: str | None) -> UUID | None:
    try:
        return UUID(text) if text is not None else None
    except ValueError:
        raise invalid("/organization_id", "uuid_parsing", "Must be the id of an organization") from None
