"""`/organizations`: organizations, for platform admins, and their members, for the admins of each."""

from __future__ import annotations

from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Query, Request, Response
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from api.auditing.entries import audit
from api.auth.caller import Caller
from api.dependencies import EngineDependency, MemberManagerCaller, ReadsDependency, SettingsDependency, caller_with
from api.http.answers import PRIVATE_HEADERS, private_answer
from api.http.body import json_body
from api.http.json_text import parse_body
from api.http.list_formats import ACCEPT, FORMAT_RESPONSES, Page, answer_list, columns_of, make_page
from api.http.problems import Problem, invalid
from api.http.query_strings import NoQuery, PageQuery
from api.http.rate_limits import limited
from api.openapi.operations import ANY_CALLER, json_body_of, problem_responses
from api.organizations.organization_models import (
    Member,
    MemberPage,
    MemberRoleFields,
    NewMemberFields,
    NewOrganizationFields,
    Organization,
    OrganizationChangeFields,
    OrganizationPage,
    member_model,
    organization_model,
)
from shared.audit.actions import AuditAction
from shared.identifiers import new_id
from shared.people.email_addresses import UnusableAddress, parse_sign_in_address
from shared.permissions import Permission
from shared.queries import organizations as queries
from shared.queries import people as people_queries

router = APIRouter(tags=["organizations"])
OrganizationManager = Annotated[Caller, caller_with(Permission.ORGANIZATIONS_MANAGE)]
NAME_TAKEN = "There is another organization of this name."
NO_ORGANIZATION = "There is no such organization."
NO_MEMBER = "The organization has no such member."


@router.post(
    "/organizations",
    status_code=201,
    summary="Create an organization",
    response_model=Organization,
    response_description="The organization.",
    responses=problem_responses(*ANY_CALLER, "name-taken", "unsupported-media-type"),
    openapi_extra=json_body_of("NewOrganization", {"name": "Accounting"}),
)
@limited("submit")
async def create_organization(
    request: Request,
    caller: OrganizationManager,
    settings: SettingsDependency,
    engine: EngineDependency,
    query: Annotated[NoQuery, Query()],
) -> Response:
    """Create an organization. Then add members to it, or make a key for a service of it."""
    fields = parse_body(NewOrganizationFields, await json_body(request, settings.max_json_bytes))
    async with engine.begin() as connection:
        row = (await connection.execute(queries.insert_organization(new_id(), fields.name))).one_or_none()
        if row is None:
            raise Problem("name-taken", NAME_TAKEN)
        await audit(connection, request, caller, AuditAction.ORGANIZATION_CREATED, row.id, row.id)
    return private_answer(organization_model(row), 201, {"Location": f"/organizations/{row.id}"})


@router.get(
    "/organizations",
    summary="List organizations, newest first",
    responses={
        200: {"model": OrganizationPage, "description": "A page of organizations.", "content": FORMAT_RESPONSES},
        **problem_responses(*ANY_CALLER, "not-acceptable"),
    },
    openapi_extra={"parameters": [ACCEPT]},
)
@limited("read")
async def list_organizations(
    request: Request,
    caller: OrganizationManager,
    settings: SettingsDependency,
    reads: ReadsDependency,
    query: Annotated[PageQuery, Query()],
) -> Response:
    """Return all organizations."""

    async def read(before_id: UUID | None, limit: int) -> Page:
        async with reads.connect() as connection:
            statement = queries.list_organizations(
                caller.reach_of(Permission.ORGANIZATIONS_MANAGE), before_id, limit + 1
            )
            rows = (await connection.execute(statement)).all()
        return make_page(rows, limit, organization_model)

    columns = columns_of(Organization, "links")
    return await answer_list(request, settings, query, read=read, columns=columns)


@router.get(
    "/organizations/{organization_id}",
    summary="Get an organization",
    response_model=Organization,
    response_description="The organization.",
    responses=problem_responses(*ANY_CALLER, "not-found"),
)
@limited("read")
async def get_organization(
    request: Request,
    organization_id: UUID,
    caller: MemberManagerCaller,
    reads: ReadsDependency,
    query: Annotated[NoQuery, Query()],
) -> Response:
    """Return an organization, to its own admins too."""
    _require_reach(caller, organization_id)
    async with reads.connect() as connection:
        row = (await connection.execute(queries.find_organization(organization_id))).one_or_none()
    if row is None:
        raise Problem("not-found", NO_ORGANIZATION)
    return private_answer(organization_model(row))


@router.patch(
    "/organizations/{organization_id}",
    summary="Rename, weigh, disable or enable an organization",
    response_model=Organization,
    response_description="The organization as it is now.",
    responses=problem_responses(*ANY_CALLER, "not-found", "name-taken", "conflict", "unsupported-media-type"),
    openapi_extra=json_body_of("OrganizationChange", {"disabled": True}),
)
@limited("submit")
async def change_organization(
    request: Request,
    organization_id: UUID,
    caller: OrganizationManager,
    settings: SettingsDependency,
    engine: EngineDependency,
    query: Annotated[NoQuery, Query()],
) -> Response:
    """Change the fields that the body names. Once an organization is disabled, its keys and members are refused within a
    second, and it submits nothing more; what it owns stays. A new weight counts at once, for tasks that wait already too.
    """
    fields = parse_body(OrganizationChangeFields, await json_body(request, settings.max_json_bytes))
    if fields.disabled and organization_id == caller.organization_id:
        raise Problem("conflict", "This is your own organization: disabling it would refuse you too.")
    try:
        async with engine.begin() as connection:
            stored = await _lock(connection, organization_id, caller)
            values: dict[str, Any] = {}
            if fields.name is not None:
                values["name"] = fields.name
            if fields.disabled is not None and fields.disabled != (stored.disabled_at is not None):
                values["disabled_at"] = True if fields.disabled else None
            if fields.weight is not None and fields.weight != stored.weight:
                values["weight"] = fields.weight
            if not values:
                return private_answer(organization_model(stored))
            row = (await connection.execute(queries.change_organization(organization_id, values))).one()
            await audit(
                connection,
                request,
                caller,
                AuditAction.ORGANIZATION_CHANGED,
                row.id,
                row.id,
                before={"disabled": stored.disabled_at is not None},
                after={"disabled": row.disabled_at is not None, "renamed": row.name != stored.name},
            )
            if row.weight != stored.weight:
                weights = {"before": {"weight": stored.weight}, "after": {"weight": row.weight}}
                await audit(connection, request, caller, AuditAction.WEIGHT_CHANGED, row.id, row.id, **weights)
    except IntegrityError:
        raise Problem("name-taken", NAME_TAKEN) from None
    return private_answer(organization_model(row))


@router.get(
    "/organizations/{organization_id}/members",
    summary="List the members of an organization",
    responses={
        200: {"model": MemberPage, "description": "A page of members.", "content": FORMAT_RESPONSES},
        **problem_responses(*ANY_CALLER, "not-found", "not-acceptable"),
    },
    openapi_extra={"parameters": [ACCEPT]},
)
@limited("read")
async def list_members(
    request: Request,
    organization_id: UUID,
    caller: MemberManagerCaller,
    settings: SettingsDependency,
    reads: ReadsDependency,
    query: Annotated[PageQuery, Query()],
) -> Response:
    """Return the people in an organization, with the role of each."""
    _require_reach(caller, organization_id)
    async with reads.connect() as connection:
        if (await connection.execute(queries.find_organization(organization_id))).one_or_none() is None:
            raise Problem("not-found", NO_ORGANIZATION)

    async def read(before_id: UUID | None, limit: int) -> Page:
        async with reads.connect() as connection:
            rows = (await connection.execute(queries.list_members(organization_id, before_id, limit + 1))).all()
        return make_page(rows, limit, member_model)

    columns = columns_of(Member)
    return await answer_list(request, settings, query, read=read, columns=columns)


@router.post(
    "/organizations/{organization_id}/members",
    name="add_member",
    status_code=201,
    summary="Add a person to an organization",
    response_model=Member,
    response_description="The member.",
    responses=problem_responses(*ANY_CALLER, "not-found", "conflict", "unsupported-media-type"),
    openapi_extra=json_body_of("NewMember", {"email": "ada@example.com", "role": "client"}),
)
@limited("submit")
async def add_member(
    request: Request,
    organization_id: UUID,
    caller: MemberManagerCaller,
    settings: SettingsDependency,
    engine: EngineDependency,
    query: Annotated[NoQuery, Query()],
) -> Response:
    """Add a person who has an account. Invite a person who has none.

    Where everyone may register, only platform admins add people; others invite them.
    """
    fields = parse_body(NewMemberFields, await json_body(request, settings.max_json_bytes))
    async with engine.begin() as connection:
        await _lock(connection, organization_id, caller)
        if settings.registration == "open" and caller.reach_of(Permission.MEMBERS_MANAGE) is not None:
            # Everyone is the admin of an organization there, who must not find out who has an account, nor act on others.
            raise Problem("forbidden", "Everyone may register here, so people join by invitation: `POST /invitations`.")
        person = await _find_person(connection, fields)
        if person.id == caller.person_id:
            raise Problem("forbidden", "Nobody gives a role to themselves: ask another admin.")
        inserted = await connection.execute(queries.insert_membership(person.id, organization_id, fields.role))
        if inserted.one_or_none() is None:
            raise Problem("conflict", "The person is a member already: change the role of the member.")
        await connection.execute(
            queries.ensure_person_caller(new_id(), person.id, organization_id, person.name or person.email)
        )
        await connection.execute(queries.raise_security_version(person.id))
        after = {"person_id": str(person.id), "role": fields.role}
        await audit(
            connection, request, caller, AuditAction.MEMBER_ADDED, organization_id, organization_id, after=after
        )
        row = (await connection.execute(queries.find_member(organization_id, person.id))).one()
    headers = {"Location": f"/organizations/{organization_id}/members/{person.id}"}
    return private_answer(member_model(row), 201, headers)


@router.get(
    "/organizations/{organization_id}/members/{person_id}",
    summary="Get a member of an organization",
    response_model=Member,
    response_description="The member.",
    responses=problem_responses(*ANY_CALLER, "not-found"),
)
@limited("read")
async def get_member(
    request: Request,
    organization_id: UUID,
    person_id: UUID,
    caller: MemberManagerCaller,
    reads: ReadsDependency,
    query: Annotated[NoQuery, Query()],
) -> Response:
    """Return a person in an organization, with the role there."""
    _require_reach(caller, organization_id)
    async with reads.connect() as connection:
        return private_answer(member_model(await _get_member(connection, organization_id, person_id)))


@router.patch(
    "/organizations/{organization_id}/members/{person_id}",
    name="change_member",
    summary="Change the role of a member",
    response_model=Member,
    response_description="The member as it is now.",
    responses=problem_responses(*ANY_CALLER, "not-found", "conflict", "unsupported-media-type"),
    openapi_extra=json_body_of("MemberChange", {"role": "operator"}),
)
@limited("submit")
async def change_member(
    request: Request,
    organization_id: UUID,
    person_id: UUID,
    caller: MemberManagerCaller,
    settings: SettingsDependency,
    engine: EngineDependency,
    query: Annotated[NoQuery, Query()],
) -> Response:
    """Change what a member may do. Within a second it holds for the member's keys and tokens too. Nobody changes their own
    role, and an organization that has an admin keeps one, unless a platform admin takes the last one away.
    """
    fields = parse_body(MemberRoleFields, await json_body(request, settings.max_json_bytes))
    async with engine.begin() as connection:
        await _lock(connection, organization_id, caller)
        stored = await _get_member(connection, organization_id, person_id)
        if person_id == caller.person_id:
            raise Problem("forbidden", "Nobody changes their own role: ask another admin.")
        if stored.role != fields.role:
            if stored.role == "admin":
                await _require_other_admin(connection, organization_id, person_id, caller)
            await connection.execute(queries.change_member_role(organization_id, person_id, fields.role))
            await connection.execute(queries.raise_security_version(person_id))
            await audit(
                connection,
                request,
                caller,
                AuditAction.MEMBER_ROLE_CHANGED,
                organization_id,
                organization_id,
                before={"person_id": str(person_id), "role": stored.role},
                after={"person_id": str(person_id), "role": fields.role},
            )
        row = await _get_member(connection, organization_id, person_id)
    return private_answer(member_model(row))


@router.delete(
    "/organizations/{organization_id}/members/{person_id}",
    name="remove_member",
    status_code=204,
    summary="Remove a member from an organization",
    response_description="The person is no member any more.",
    responses=problem_responses(*ANY_CALLER, "not-found", "conflict"),
)
@limited("submit")
async def remove_member(
    request: Request,
    organization_id: UUID,
    person_id: UUID,
    caller: MemberManagerCaller,
    engine: EngineDependency,
    query: Annotated[NoQuery, Query()],
) -> Response:
    """Remove a person from an organization. The person's keys there are revoked; what the person submitted stays, and belongs
    to the organization. Admins may remove themselves, but not the last admin.
    """
    async with engine.begin() as connection:
        await _lock(connection, organization_id, caller)
        stored = await _get_member(connection, organization_id, person_id)
        if stored.role == "admin":
            await _require_other_admin(connection, organization_id, person_id, caller)
        await connection.execute(queries.revoke_keys_of_member(organization_id, person_id))
        await connection.execute(queries.delete_membership(organization_id, person_id))
        await connection.execute(queries.raise_security_version(person_id))
        before = {"person_id": str(person_id), "role": stored.role}
        await audit(
            connection, request, caller, AuditAction.MEMBER_REMOVED, organization_id, organization_id, before=before
        )
    return Response(status_code=204, headers=dict(PRIVATE_HEADERS))


def _require_reach(caller: Caller, organization_id: UUID) -> None:
    """Raise `not-found` unless the caller manages the members of an organization: others are as if they did not exist."""
    if not caller.has_for(Permission.MEMBERS_MANAGE, organization_id):
        raise Problem("not-found", NO_ORGANIZATION)


async def _lock(connection: AsyncConnection, organization_id: UUID, caller: Caller) -> Any:
    """Return an organization whose members the caller manages, and lock it."""
    _require_reach(caller, organization_id)
    row = (await connection.execute(queries.lock_organization(organization_id))).one_or_none()
    if row is None:
        raise Problem("not-found", NO_ORGANIZATION)
    return row


async def _get_member(connection: AsyncConnection, organization_id: UUID, person_id: UUID) -> Any:
    row = (await connection.execute(queries.find_member(organization_id, person_id))).one_or_none()
    if row is None:
        raise Problem("not-found", NO_MEMBER)
    return row


async def _find_person(connection: AsyncConnection, fields: NewMemberFields) -> Any:
    """Return the person that a body names. Raises `validation`."""
    if fields.person_id is not None:
        pointer, statement = "/person_id", people_queries.get_person(fields.person_id)
    else:
        pointer = "/email"
        try:
            statement = people_queries.find_person(parse_sign_in_address(fields.email or "").key)
        except UnusableAddress as error:
            raise invalid(pointer, "email", str(error)) from None
    row = (await connection.execute(statement)).one_or_none()
    if row is None:
        raise invalid(pointer, "unknown_person", "Nobody has an account with this. Invite the person first.")
    return row


async def _require_other_admin(
    connection: AsyncConnection, organization_id: UUID, person_id: UUID, caller: Caller
) -> None:
    """Raise `conflict` if a person is the last admin of an organization, unless a platform admin asks for it."""
    if caller.reach_of(Permission.MEMBERS_MANAGE) is None:
        return
    if (await connection.execute(queries.count_other_admins(organization_id, person_id))).scalar_one() == 0:
        raise Problem("conflict", "This is the last admin of the organization: make another member an admin first.")
