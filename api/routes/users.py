"""`/users`: oneself and one's sessions; and for admins of the platform, everybody."""

from __future__ import annotations

from typing import Annotated, Any, Final
from uuid import UUID

from fastapi import APIRouter, Query, Request, Response
from sqlalchemy.ext.asyncio import AsyncConnection

from api.auditing.entries import audit
from api.auth.account_emails import email_person
from api.auth.auth_models import PersonChange, Session, SessionPage, User, UserChange, UserPage
from api.auth.clients import delete_refresh_cookie, read_client
from api.auth.people_reader import read_user, show_session, show_users
from api.dependencies import (
    EngineDependency,
    NoBody,
    PersonCaller,
    ReadsDependency,
    SessionsDependency,
    SettingsDependency,
    UserManagerCaller,
)
from api.http.answers import PRIVATE_HEADERS, private_answer
from api.http.body import json_body
from api.http.json_text import parse_body
from api.http.list_formats import ACCEPT, FORMAT_RESPONSES, Page, answer_list, columns_of, dump_item, make_page
from api.http.problems import Problem
from api.http.query_strings import NoQuery, PageQuery
from api.http.rate_limits import limited
from api.openapi.operations import ANY_CALLER, json_body_of, problem_responses
from shared.audit.actions import AuditAction
from shared.queries import identities as identity_queries
from shared.queries import organizations as organization_queries
from shared.queries import people as queries
from shared.queries import sessions as session_queries

RECENT_MINUTES: Final = 15
"""How old a session may be in which a person deletes the account."""
LAST_ADMIN: Final = "This is the last admin of the platform: make somebody else an admin first."
router = APIRouter(tags=["users"])


@router.get(
    "/users/me",
    summary="Get yourself",
    response_model=User,
    response_description="You, and the organizations that you belong to.",
    responses=problem_responses(*ANY_CALLER, "sign-in-required", "not-found"),
)
@limited("read")
async def get_me(
    request: Request, caller: PersonCaller, reads: ReadsDependency, query: Annotated[NoQuery, Query()]
) -> Response:
    """Return the person to whom the access token belongs."""
    person_id, _ = caller.require_session()
    return private_answer(await read_user(reads, person_id))


@router.patch(
    "/users/me",
    summary="Change your name",
    response_model=User,
    response_description="You, as you are now.",
    responses=problem_responses(*ANY_CALLER, "sign-in-required", "not-found", "unsupported-media-type"),
    openapi_extra=json_body_of("PersonChange", {"name": "Ada Lovelace"}),
)
@limited("submit")
async def change_me(
    request: Request,
    caller: PersonCaller,
    settings: SettingsDependency,
    engine: EngineDependency,
    reads: ReadsDependency,
    query: Annotated[NoQuery, Query()],
) -> Response:
    """Change your name. Nobody changes their own role."""
    person_id, _ = caller.require_session()
    body = parse_body(PersonChange, await json_body(request, settings.max_json_bytes))
    async with engine.begin() as connection:
        await connection.execute(queries.change_person(person_id, {"name": body.name}))
        await audit(connection, request, caller, AuditAction.PERSON_CHANGED, person_id, None)
    return private_answer(await read_user(reads, person_id))


@router.delete(
    "/users/me",
    status_code=204,
    summary="Delete your account",
    response_description="The account is deleted, and its sessions have ended.",
    responses=problem_responses(*ANY_CALLER, "sign-in-required", "recent-sign-in-required", "not-found", "conflict"),
)
@limited("submit")
async def delete_me(
    request: Request,
    caller: PersonCaller,
    engine: EngineDependency,
    sessions: SessionsDependency,
    query: Annotated[NoQuery, Query()],
) -> Response:
    """Delete your address, name, password and memberships. What you submitted stays with its organization.

    The session must have begun less than 15 minutes ago, and the last admin of the platform cannot be deleted.
    """
    person_id, session_id = caller.require_session()
    async with engine.begin() as connection:
        if not (await connection.execute(session_queries.is_recent(session_id, RECENT_MINUTES))).scalar_one():
            raise Problem("recent-sign-in-required")
        person = await _lock(connection, person_id)
        if person.platform_role == "admin":
            await _require_another_admin(connection, person_id)
        await sessions.end_all(connection, person_id, "deleted", read_client(request))
        await connection.execute(organization_queries.revoke_keys_of_person(person_id))
        await connection.execute(queries.delete_memberships(person_id))
        await connection.execute(identity_queries.delete_identities(person_id))
        await connection.execute(queries.delete_second_factor(person_id))
        await connection.execute(queries.delete_recovery_codes(person_id))
        await connection.execute(queries.drop_person_tokens(person_id, "reset", "verify", "challenge"))
        await connection.execute(queries.forget_names(person_id, f"deleted {person_id}"))
        await connection.execute(queries.forget_person(person_id))
        await audit(connection, request, caller, AuditAction.PERSON_DELETED, person_id, None)
    response = Response(status_code=204, headers=dict(PRIVATE_HEADERS))
    delete_refresh_cookie(response)
    return response


@router.get(
    "/users/me/sessions",
    summary="List your sessions, newest first",
    responses={
        200: {"model": SessionPage, "description": "A page of sessions.", "content": FORMAT_RESPONSES},
        **problem_responses(*ANY_CALLER, "sign-in-required", "not-acceptable"),
    },
    openapi_extra={"parameters": [ACCEPT]},
)
@limited("read")
async def list_sessions(
    request: Request,
    caller: PersonCaller,
    settings: SettingsDependency,
    reads: ReadsDependency,
    query: Annotated[PageQuery, Query()],
) -> Response:
    """Return your sessions that have not ended, with the address and the client that used them last."""
    person_id, session_id = caller.require_session()

    async def read(before_id: UUID | None, limit: int) -> Page:
        async with reads.connect() as connection:
            statement = session_queries.list_sessions(person_id, before_id, limit + 1)
            rows = (await connection.execute(statement)).all()
        return make_page(rows, limit, lambda row: show_session(row, session_id))

    return await answer_list(request, settings, query, read=read, columns=columns_of(Session))


@router.delete(
    "/users/me/sessions/{session_id}",
    status_code=204,
    summary="End a session of yours",
    response_description="The session has ended. Its tokens are refused within a second.",
    responses=problem_responses(*ANY_CALLER, "sign-in-required", "not-found"),
)
@limited("submit")
async def revoke_session(
    request: Request,
    session_id: UUID,
    caller: PersonCaller,
    sessions: SessionsDependency,
    query: Annotated[NoQuery, Query()],
) -> Response:
    """End one of your sessions, such as that of a device that you lost."""
    person_id, _ = caller.require_session()
    client = read_client(request)
    if not await sessions.end(session_id, person_id, "revoked", AuditAction.SESSION_REVOKED, client):
        raise Problem("not-found")
    return Response(status_code=204, headers=dict(PRIVATE_HEADERS))


@router.get(
    "/users",
    summary="List people, newest first",
    responses={
        200: {"model": UserPage, "description": "A page of people.", "content": FORMAT_RESPONSES},
        **problem_responses(*ANY_CALLER, "not-acceptable"),
    },
    openapi_extra={"parameters": [ACCEPT]},
)
@limited("read")
async def list_users(
    request: Request,
    caller: UserManagerCaller,
    settings: SettingsDependency,
    reads: ReadsDependency,
    query: Annotated[PageQuery, Query()],
) -> Response:
    """Return everybody, with the organizations that they belong to. For admins of the platform."""

    async def read(before_id: UUID | None, limit: int) -> Page:
        async with reads.connect() as connection:
            rows = (await connection.execute(queries.list_people(before_id, limit + 1))).all()
            users = await show_users(connection, rows[:limit])
        return Page([dump_item(user) for user in users], rows[limit - 1].id if len(rows) > limit else None)

    columns = columns_of(User, "memberships")
    return await answer_list(request, settings, query, read=read, columns=columns)


@router.get(
    "/users/{person_id}",
    summary="Get a person",
    response_model=User,
    response_description="The person.",
    responses=problem_responses(*ANY_CALLER, "not-found"),
)
@limited("read")
async def get_user(
    request: Request,
    person_id: UUID,
    caller: UserManagerCaller,
    reads: ReadsDependency,
    query: Annotated[NoQuery, Query()],
) -> Response:
    """Return a person. For admins of the platform."""
    return private_answer(await read_user(reads, person_id))


@router.patch(
    "/users/{person_id}",
    summary="Disable a person, or change the role on the platform",
    response_model=User,
    response_description="The person as it is now.",
    responses=problem_responses(*ANY_CALLER, "not-found", "conflict", "unsupported-media-type"),
    openapi_extra=json_body_of("UserChange", {"disabled": True}),
)
@limited("submit")
async def change_user(
    request: Request,
    person_id: UUID,
    caller: UserManagerCaller,
    settings: SettingsDependency,
    engine: EngineDependency,
    reads: ReadsDependency,
    sessions: SessionsDependency,
    query: Annotated[NoQuery, Query()],
) -> Response:
    """Change the fields that the body names. Access tokens of the person are refused within a second; disabling ends all sessions.

    Nobody changes their own role or disables themselves, and the last admin of the platform stays one. The role in an
    organization is changed by `PATCH /organizations/<id>/members/<user id>`.
    """
    body = parse_body(UserChange, await json_body(request, settings.max_json_bytes))
    if caller.person_id == person_id:
        raise Problem("forbidden", "Nobody changes their own role or disables themselves: ask another admin.")
    async with engine.begin() as connection:
        person = await _lock(connection, person_id)
        loses_admin = person.platform_role == "admin" and person.disabled_at is None
        keeps_role = "platform_role" not in body.model_fields_set or body.platform_role == "admin"
        if loses_admin and (body.disabled or not keeps_role):
            await _require_another_admin(connection, person_id)
        if "platform_role" in body.model_fields_set and body.platform_role != person.platform_role:
            await connection.execute(queries.change_person(person_id, {"platform_role": body.platform_role}))
            await audit(
                connection,
                request,
                caller,
                AuditAction.PERSON_ROLE_CHANGED,
                person_id,
                None,
                before={"platform_role": person.platform_role},
                after={"platform_role": body.platform_role},
            )
        if body.disabled is not None and body.disabled != (person.disabled_at is not None):
            await connection.execute(queries.disable_person(person_id, is_disabled=body.disabled))
            action = AuditAction.PERSON_DISABLED if body.disabled else AuditAction.PERSON_ENABLED
            await audit(connection, request, caller, action, person_id, None)
            if body.disabled:
                await sessions.end_all(connection, person_id, "disabled", read_client(request))
    return private_answer(await read_user(reads, person_id))


@router.post(
    "/users/{person_id}/force-password",
    status_code=202,
    summary="Force a new password",
    response_model=User,
    response_description="The password is no longer valid, and an email with a token for a new one is on its way.",
    responses=problem_responses(*ANY_CALLER, "not-found", "unsupported-media-type"),
)
@limited("submit")
async def force_password(
    request: Request,
    person_id: UUID,
    caller: UserManagerCaller,
    engine: EngineDependency,
    reads: ReadsDependency,
    sessions: SessionsDependency,
    query: Annotated[NoQuery, Query()],
    body: NoBody,
) -> Response:
    """Delete the password of a person, end all sessions, and send a token to choose a new one. For admins of the platform."""
    async with engine.begin() as connection:
        person = await _lock(connection, person_id)
        await connection.execute(queries.change_person(person_id, {"password_hash": None}))
        await connection.execute(queries.drop_person_tokens(person_id, "reset", "challenge"))
        await sessions.end_all(connection, person_id, "new_password_forced", read_client(request))
        await audit(
            connection,
            request,
            caller,
            AuditAction.PERSON_CHANGED,
            person_id,
            None,
            before={"has_password": person.password_hash is not None},
            after={"has_password": False},
        )
        await email_person(connection, "reset", person.email_key, request.state.request_id)
    return private_answer(await read_user(reads, person_id), 202)


async def _lock(connection: AsyncConnection, person_id: UUID) -> Any:
    """Return a person, and lock the row. The lock on admins comes first, so that two requests never wait for each other."""
    await connection.execute(queries.lock_platform_admins())
    row = (await connection.execute(queries.lock_person(person_id))).one_or_none()
    if row is None:
        raise Problem("not-found")
    return row


async def _require_another_admin(connection: AsyncConnection, person_id: UUID) -> None:
    if not (await connection.execute(queries.has_another_platform_admin(person_id))).scalar_one():
        raise Problem("conflict", LAST_ADMIN)
