"""`/api-keys`: the keys of services and people, which are made, listed, rotated and revoked."""

from __future__ import annotations

from datetime import timedelta
from functools import partial
from typing import Annotated, Any, Final
from uuid import UUID

from fastapi import APIRouter, Query, Request, Response
from pydantic import Field
from sqlalchemy.ext.asyncio import AsyncConnection

from api.auditing.entries import audit, describe_actor, write_entry
from api.auth.caller import Caller
from api.dependencies import EngineDependency, ReadsDependency, SettingsDependency, caller_with
from api.http.answers import PRIVATE_HEADERS, private_answer
from api.http.body import json_body, optional_json_body
from api.http.json_text import parse_body
from api.http.list_formats import ACCEPT, FORMAT_RESPONSES, Page, answer_list, columns_of, make_page
from api.http.problems import Problem, invalid
from api.http.query_strings import NoQuery, PageQuery
from api.http.rate_limits import limited
from api.keys.key_grants import read_grant, read_stored_grant, require_grantable, role_in
from api.keys.key_models import ApiKey, ApiKeyPage, KeyFields, RotationFields, key_model
from api.openapi.operations import ANY_CALLER, json_body_of, problem_responses
from api.openapi.submission_schemas import ref
from shared import api_keys
from shared.audit.actions import AuditAction
from shared.permissions import Permission
from shared.queries import callers as queries
from shared.queries import organizations as organization_queries

MAX_KEYS: Final = 100
"""How many valid keys a caller may have."""
NOT_STORED: Final = {"Cache-Control": "no-store"}
router = APIRouter(tags=["keys"])
KeyManager = Annotated[Caller, caller_with(Permission.KEYS_MANAGE_OWN)]


@router.post(
    "/api-keys",
    name="create_key",
    status_code=201,
    summary="Make an API key",
    response_model=ApiKey,
    response_description="The key with its secret, which is shown only now.",
    responses=problem_responses(*ANY_CALLER, "not-found", "conflict", "unsupported-media-type"),
    openapi_extra=json_body_of("NewApiKey", {"name": "nightly import", "scopes": ["tasks:write", "files:write"]}),
)
@limited("submit")
async def create_api_key(
    request: Request,
    caller: KeyManager,
    settings: SettingsDependency,
    engine: EngineDependency,
    query: Annotated[NoQuery, Query()],
) -> Response:
    """Make a key for yourself, or, as an admin, for a service. It can never do more than you: not with another role or scope,
    not for longer, and not from other networks than the key of this request.

    A key has the form `tm_<prefix>_<secret><checksum>`, and fits the pattern `tm_[0-9a-f]{12}_[0-9A-Za-z]{49}`.
    """
    fields = parse_body(KeyFields, await json_body(request, settings.max_json_bytes))
    organization_id = fields.organization_id or caller.organization_id
    if fields.service is not None or organization_id != caller.organization_id:
        caller.require(Permission.KEYS_MANAGE)
        if not caller.has_for(Permission.KEYS_MANAGE, organization_id):
            raise Problem("not-found", "There is no such organization.")
    if fields.service is None and organization_id != caller.organization_id:
        raise invalid("/service", "missing", "Name the service of the other organization that the key is for.")
    grant = read_grant(fields, caller, organization_id)
    async with engine.begin() as connection:
        if (await connection.execute(organization_queries.find_organization(organization_id))).one_or_none() is None:
            raise Problem("not-found", "There is no such organization.")
        caller_id = caller.owner_id
        if fields.service is not None:
            caller_id = await connection.run_sync(api_keys.ensure_service, organization_id, fields.service)
        else:
            await connection.execute(organization_queries.lock_organization(organization_id))
        if (await connection.execute(queries.count_valid_keys(caller_id))).scalar_one() >= MAX_KEYS:
            raise Problem("conflict", f"A caller may have {MAX_KEYS} valid keys: revoke one first.")
        issue = partial(
            api_keys.issue_key,
            caller_id=caller_id,
            organization_id=organization_id,
            name=fields.name,
            grant=grant,
            created_by=caller.owner_id,
        )
        created = await connection.run_sync(issue)
        entry = api_keys.describe_key_entry(describe_actor(request, caller), AuditAction.API_KEY_CREATED, created)
        await write_entry(connection, entry)
        row = (await connection.execute(queries.get_api_key(created.id))).one()
    headers = {"Location": f"/api-keys/{row.id}", **NOT_STORED}
    return private_answer(key_model(row, created.key), 201, headers)


class KeyQuery(PageQuery):
    """The page of a list of keys, and its filters."""

    owner: Annotated[UUID | None, Field(description="Only keys of this caller.")] = None
    organization_id: Annotated[UUID | None, Field(description="Only keys of this organization.")] = None


@router.get(
    "/api-keys",
    name="list_keys",
    summary="List API keys, newest first",
    responses={
        200: {"model": ApiKeyPage, "description": "A page of keys.", "content": FORMAT_RESPONSES},
        **problem_responses(*ANY_CALLER, "not-acceptable"),
    },
    openapi_extra={"parameters": [ACCEPT]},
)
@limited("read")
async def list_api_keys(
    request: Request,
    caller: KeyManager,
    settings: SettingsDependency,
    reads: ReadsDependency,
    query: Annotated[KeyQuery, Query()],
) -> Response:
    """Return your keys; to the admin of an organization all of its keys, and to a platform admin all keys. Revoked and expired
    ones are among them.
    """
    manages = caller.allows(Permission.KEYS_MANAGE)
    visible_id = caller.reach_of(Permission.KEYS_MANAGE)
    owner_id = query.owner if manages else caller.owner_id
    # Foreign organizations and callers have no keys as far as this caller can see.
    hidden = (visible_id is not None and query.organization_id not in (None, visible_id)) or query.owner not in (
        None,
        owner_id,
    )

    async def read(before_id: UUID | None, limit: int) -> Page:
        if hidden:
            return Page([], None)
        async with reads.connect() as connection:
            organization_id = visible_id or query.organization_id
            statement = queries.list_api_keys(organization_id, owner_id, before_id, limit + 1)
            rows = (await connection.execute(statement)).all()
        return make_page(rows, limit, key_model)

    columns = columns_of(ApiKey, "key", "links")
    return await answer_list(request, settings, query, read=read, columns=columns)


@router.get(
    "/api-keys/{key_id}",
    name="get_key",
    summary="Get an API key",
    response_model=ApiKey,
    response_description="The key, without its secret.",
    responses=problem_responses(*ANY_CALLER, "not-found"),
)
@limited("read")
async def get_api_key(
    request: Request, key_id: UUID, caller: KeyManager, reads: ReadsDependency, query: Annotated[NoQuery, Query()]
) -> Response:
    """Return a key, with the day and the network of its last use."""
    async with reads.connect() as connection:
        row = (await connection.execute(queries.get_api_key(key_id))).one_or_none()
    return private_answer(key_model(_require_visible(row, caller)))


@router.post(
    "/api-keys/{key_id}/rotate",
    name="rotate_key",
    status_code=201,
    summary="Replace an API key by a new one",
    response_model=ApiKey,
    response_description="The new key with its secret, which is shown only now.",
    responses=problem_responses(*ANY_CALLER, "not-found", "conflict", "unsupported-media-type"),
    openapi_extra={
        "requestBody": {
            "required": False,
            "content": {
                "application/json": {
                    "schema": ref("ApiKeyRotation"),
                    "examples": {"hour": {"value": {"overlap_seconds": 3600}}},
                }
            },
        }
    },
)
@limited("submit")
async def rotate_api_key(
    request: Request,
    key_id: UUID,
    caller: KeyManager,
    settings: SettingsDependency,
    engine: EngineDependency,
    query: Annotated[NoQuery, Query()],
) -> Response:
    """Make a new key with the same owner, name, rights, networks and length of life. The old one is accepted for a day, or for
    `overlap_seconds`, and then expires.
    """
    fields = parse_body(RotationFields, await optional_json_body(request, settings.max_json_bytes))
    overlap = timedelta(seconds=fields.overlap_seconds)
    async with engine.begin() as connection:
        stored = await _lock(connection, key_id, caller)
        if api_keys.is_over(stored):
            raise Problem("conflict", "The key is revoked or has expired. Make a new one.")
        is_own = stored.id == caller.key_id
        if not is_own:
            # Its secret would be shown to a caller who may do less.
            require_grantable(read_stored_grant(stored), caller, role_in(caller, stored.organization_id))
        rotate = partial(
            api_keys.rotate_key,
            stored=stored,
            overlap=overlap,
            latest=None if is_own else caller.expires_at,
            created_by=caller.owner_id,
        )
        created = await connection.run_sync(rotate)
        entry = api_keys.describe_key_entry(describe_actor(request, caller), AuditAction.API_KEY_ROTATED, created)
        await write_entry(connection, entry)
        row = (await connection.execute(queries.get_api_key(created.id))).one()
    headers = {"Location": f"/api-keys/{row.id}", **NOT_STORED}
    return private_answer(key_model(row, created.key), 201, headers)


@router.delete(
    "/api-keys/{key_id}",
    name="revoke_key",
    status_code=204,
    summary="Revoke an API key",
    response_description="The key is revoked.",
    responses=problem_responses(*ANY_CALLER, "not-found"),
)
@limited("submit")
async def revoke_api_key(
    request: Request, key_id: UUID, caller: KeyManager, engine: EngineDependency, query: Annotated[NoQuery, Query()]
) -> Response:
    """Revoke a key: within a second, every process refuses it. It stays in the list, as revoked."""
    async with engine.begin() as connection:
        stored = await _lock(connection, key_id, caller)
        if stored.revoked_at is None:
            await connection.execute(queries.revoke_api_key(key_id))
            await audit(connection, request, caller, AuditAction.API_KEY_REVOKED, key_id, stored.organization_id)
    return Response(status_code=204, headers=dict(PRIVATE_HEADERS))


async def _lock(connection: AsyncConnection, key_id: UUID, caller: Caller) -> Any:
    """Return a key that the caller may manage, and lock its row. Raises `not-found` or `forbidden`."""
    row = _require_visible((await connection.execute(queries.lock_api_key(key_id))).one_or_none(), caller)
    manages_all = caller.allows(Permission.KEYS_MANAGE) and caller.reach_of(Permission.KEYS_MANAGE) is None
    if row.platform_role is not None and row.caller_id != caller.owner_id and not manages_all:
        raise Problem("forbidden", "The key has a platform role: only its owner and platform admins manage it.")
    return row


def _require_visible(row: Any, caller: Caller) -> Any:
    """Return a key if it is the caller's, or the caller manages the keys of its organization. Raises `not-found`."""
    is_visible = row is not None and (
        row.caller_id == caller.owner_id
        or (caller.allows(Permission.KEYS_MANAGE) and caller.has_for(Permission.KEYS_MANAGE, row.organization_id))
    )
    if not is_visible:
        raise Problem("not-found")
    return row
