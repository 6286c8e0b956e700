"""`/webhook-endpoints`: receivers of webhooks, the events that are sent to them, and their secrets."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any, Final
from uuid import UUID

from fastapi import APIRouter, Query, Request, Response
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from api.auditing.entries import write_entry
from api.auth.caller import Caller
from api.dependencies import (
    ActorDependency,
    CipherDependency,
    EngineDependency,
    NoBody,
    ReadsDependency,
    ReceiverHostsDependency,
    SettingsDependency,
    WaitersDependency,
    WebhookManagerCaller,
    WebhookReaderCaller,
)
from api.following.waiters import Waiters
from api.http.answers import PRIVATE_HEADERS, private_answer
from api.http.body import json_body
from api.http.conditional import require_match
from api.http.json_text import load_json, parse_body
from api.http.list_formats import ACCEPT, FORMAT_RESPONSES, Page, answer_list, columns_of, make_page
from api.http.problems import Problem, invalid
from api.http.query_strings import NoQuery, PageQuery
from api.http.rate_limits import limited
from api.openapi.operations import ANY_CALLER, IF_MATCH, json_body_of, problem_responses
from api.submitting.parsing import dump_part
from api.webhooks.representations import delivery_model, endpoint_etag, endpoint_model
from api.webhooks.webhook_models import EndpointFields, WebhookDelivery, WebhookEndpoint, WebhookEndpointPage
from shared.audit.actions import AuditAction
from shared.audit.entries import Entry
from shared.identifiers import new_id
from shared.permissions import Permission
from shared.queries import webhooks as queries
from shared.webhooks.signing import SECRET_PURPOSE, new_secret

MAX_ENDPOINTS: Final = 100
"""How many endpoints an organization may have: each end of a task is compared with all of them."""
TEST_SECONDS: Final = 30.0
"""How long a test waits for the answer of the receiver."""
TEST_POLL_SECONDS: Final = 0.2
router = APIRouter(tags=["webhooks"])


_EXAMPLE: Final = {"url": "https://example.com/hooks", "event_types": ["task.failed", "batch.finished"]}


@router.post(
    "/webhook-endpoints",
    status_code=201,
    summary="Create an endpoint",
    response_model=WebhookEndpoint,
    response_description="The endpoint with its secret, which is shown only now.",
    responses=problem_responses(*ANY_CALLER, "conflict", "unsupported-media-type"),
    openapi_extra=json_body_of("NewWebhookEndpoint", _EXAMPLE),
)
@limited("submit")
async def create_endpoint(
    request: Request,
    caller: WebhookManagerCaller,
    actor: ActorDependency,
    settings: SettingsDependency,
    hosts: ReceiverHostsDependency,
    cipher: CipherDependency,
    engine: EngineDependency,
    query: Annotated[NoQuery, Query()],
) -> Response:
    """Store an endpoint. From now on, the events that it names are posted to its URL, signed as Standard Webhooks.

    The body of a message is `{"type": "task.failed", "timestamp": …, "data": …}`. `data` is the task as `GET /tasks/<id>` shows
    it, without its params, or the batch, schedule or workflow. The headers are `webhook-id`, which is the id of the delivery and
    the same in every try, `webhook-timestamp` and `webhook-signature`. A receiver begins to answer within 15 seconds, with 2xx.
    Any other answer is followed by more tries for three days, but 410 disables the endpoint.
    """
    fields = parse_body(EndpointFields, await json_body(request, settings.max_json_bytes))
    await hosts.require({"/url": fields.url})
    secret = new_secret()
    values = {
        "id": new_id(),
        "organization_id": caller.organization_id,
        "owner_id": caller.owner_id,
        "secret": cipher.encrypt(secret, SECRET_PURPOSE),
        **fields.model_dump(),
    }
    async with engine.begin() as connection:
        if (await connection.execute(queries.count_endpoints(caller.organization_id))).scalar_one() >= MAX_ENDPOINTS:
            raise Problem("conflict", f"An organization may have {MAX_ENDPOINTS} endpoints: delete one first.")
        row = (await connection.execute(queries.insert_endpoint(values))).one()
        entry = Entry(actor, AuditAction.WEBHOOK_ENDPOINT_CREATED, row.id, row.organization_id, after=_audited(row))
        await write_entry(connection, entry)
    headers = {"Location": f"/webhook-endpoints/{row.id}", "ETag": endpoint_etag(row)}
    return private_answer(endpoint_model(row, secret=secret), 201, headers)


@router.get(
    "/webhook-endpoints",
    summary="List endpoints, newest first",
    responses={
        200: {"model": WebhookEndpointPage, "description": "A page of endpoints.", "content": FORMAT_RESPONSES},
        **problem_responses(*ANY_CALLER, "not-acceptable"),
    },
    openapi_extra={"parameters": [ACCEPT]},
)
@limited("read")
async def list_endpoints(
    request: Request,
    caller: WebhookReaderCaller,
    settings: SettingsDependency,
    reads: ReadsDependency,
    query: Annotated[PageQuery, Query()],
) -> Response:
    """Return the endpoints that the caller may see, without their secrets."""

    async def read(before_id: UUID | None, limit: int) -> Page:
        async with reads.connect() as connection:
            statement = queries.list_endpoints(caller.visible_organization_id, before_id, limit + 1)
            rows = (await connection.execute(statement)).all()
        return make_page(rows, limit, endpoint_model)

    columns = columns_of(WebhookEndpoint, "secret", "links")
    return await answer_list(request, settings, query, read=read, columns=columns)


@router.get(
    "/webhook-endpoints/{endpoint_id}",
    summary="Get an endpoint",
    response_model=WebhookEndpoint,
    response_description="The endpoint.",
    responses=problem_responses(*ANY_CALLER, "not-found"),
)
@limited("read")
async def get_endpoint(
    request: Request,
    endpoint_id: UUID,
    caller: WebhookReaderCaller,
    reads: ReadsDependency,
    query: Annotated[NoQuery, Query()],
) -> Response:
    """Return an endpoint, without its secret."""
    async with reads.connect() as connection:
        row = await _find(connection, endpoint_id, caller)
    return private_answer(endpoint_model(row), headers={"ETag": endpoint_etag(row)})


@router.patch(
    "/webhook-endpoints/{endpoint_id}",
    summary="Change, disable or enable an endpoint",
    response_model=WebhookEndpoint,
    response_description="The endpoint as it is now.",
    responses=problem_responses(
        *ANY_CALLER, "not-found", "precondition-failed", "precondition-required", "unsupported-media-type"
    ),
    openapi_extra=json_body_of("WebhookEndpointChange", {"enabled": False}, IF_MATCH),
)
@limited("submit")
async def change_endpoint(
    request: Request,
    endpoint_id: UUID,
    caller: WebhookManagerCaller,
    actor: ActorDependency,
    settings: SettingsDependency,
    hosts: ReceiverHostsDependency,
    engine: EngineDependency,
    reads: ReadsDependency,
    query: Annotated[NoQuery, Query()],
) -> Response:
    """Change the fields that the body names. An endpoint that is enabled again counts as not failing."""
    body = await json_body(request, settings.max_json_bytes)
    async with reads.connect() as connection:
        stored = await _find(connection, endpoint_id, caller)
    caller.require_for(Permission.WEBHOOKS_MANAGE, stored.organization_id)
    require_match(request, endpoint_etag(stored))
    fields = parse_body(EndpointFields, _apply_patch(stored, body))
    # A name server may take seconds, so no row is locked meanwhile.
    if fields.url != stored.url:
        await hosts.require({"/url": fields.url})
    async with engine.begin() as connection:
        stored = await _lock_for_change(connection, endpoint_id, caller)
        require_match(request, endpoint_etag(stored))
        values = parse_body(EndpointFields, _apply_patch(stored, body)).model_dump()
        if values["enabled"]:
            values["disabled_reason"] = None
            if not stored.enabled:
                values["failing_since"] = None
        row = (await connection.execute(queries.change_endpoint(endpoint_id, values))).one()
        after = _audited(row) | {"url_changed": row.url != stored.url}
        entry = Entry(actor, AuditAction.WEBHOOK_ENDPOINT_CHANGED, row.id, row.organization_id, _audited(stored), after)
        await write_entry(connection, entry)
    return private_answer(endpoint_model(row), headers={"ETag": endpoint_etag(row)})


@router.delete(
    "/webhook-endpoints/{endpoint_id}",
    status_code=204,
    summary="Delete an endpoint with its deliveries",
    response_description="The endpoint is deleted.",
    responses=problem_responses(*ANY_CALLER, "not-found"),
)
@limited("submit")
async def delete_endpoint(
    request: Request,
    endpoint_id: UUID,
    caller: WebhookManagerCaller,
    actor: ActorDependency,
    engine: EngineDependency,
    query: Annotated[NoQuery, Query()],
) -> Response:
    """Delete an endpoint and its deliveries. What was not delivered yet is not sent any more."""
    async with engine.begin() as connection:
        await _find(connection, endpoint_id, caller)
        # The receiver is locked before the endpoint, as by the transactions that end its deliveries.
        await connection.exec_driver_sql(queries.LOCK_RECEIVER, {"receiver": endpoint_id})
        stored = await _lock_for_change(connection, endpoint_id, caller)
        await connection.execute(queries.delete_endpoint(endpoint_id))
        entry = Entry(
            actor, AuditAction.WEBHOOK_ENDPOINT_DELETED, endpoint_id, stored.organization_id, _audited(stored)
        )
        await write_entry(connection, entry)
    return Response(status_code=204, headers=dict(PRIVATE_HEADERS))


@router.post(
    "/webhook-endpoints/{endpoint_id}/rotate",
    summary="Replace the secret of an endpoint",
    response_model=WebhookEndpoint,
    response_description="The endpoint with its new secret, which is shown only now.",
    responses=problem_responses(*ANY_CALLER, "not-found", "unsupported-media-type"),
)
@limited("submit")
async def rotate_secret(
    request: Request,
    endpoint_id: UUID,
    caller: WebhookManagerCaller,
    actor: ActorDependency,
    cipher: CipherDependency,
    engine: EngineDependency,
    query: Annotated[NoQuery, Query()],
    body: NoBody,
) -> Response:
    """Make a new secret. For a day, each message has two signatures: that of the new secret and that of the one before."""
    secret = new_secret()
    async with engine.begin() as connection:
        await _lock_for_change(connection, endpoint_id, caller)
        statement = queries.rotate_secret(endpoint_id, cipher.encrypt(secret, SECRET_PURPOSE))
        row = (await connection.execute(statement)).one()
        entry = Entry(actor, AuditAction.WEBHOOK_ENDPOINT_SECRET_ROTATED, endpoint_id, row.organization_id)
        await write_entry(connection, entry)
    return private_answer(endpoint_model(row, secret=secret), headers={"ETag": endpoint_etag(row)})


@router.post(
    "/webhook-endpoints/{endpoint_id}/test",
    summary="Send a signed ping to an endpoint",
    response_model=WebhookDelivery,
    response_description="The delivery of the ping, with what came back.",
    responses={
        202: {
            "model": WebhookDelivery,
            "description": "The delivery of the ping, which has not ended within 30 seconds.",
        },
        **problem_responses(*ANY_CALLER, "not-found", "conflict", "unsupported-media-type"),
    },
)
@limited("submit")
async def test_endpoint(
    request: Request,
    endpoint_id: UUID,
    caller: WebhookManagerCaller,
    engine: EngineDependency,
    reads: ReadsDependency,
    waiters: WaitersDependency,
    query: Annotated[NoQuery, Query()],
    body: NoBody,
) -> Response:
    """Send a message of the type `ping` once, also to a disabled endpoint, and wait for what the receiver answers."""
    delivery_id = new_id()
    async with engine.begin() as connection:
        await _lock_for_change(connection, endpoint_id, caller)
        parameters = {"id": delivery_id, "endpoint_id": endpoint_id}
        # Each request that waits asks the database several times a second.
        if (await connection.exec_driver_sql(queries.IS_TESTED, parameters)).scalar_one():
            raise Problem(
                "conflict", "The last ping of this endpoint has not ended yet: wait for it, for up to a minute."
            )
        await connection.exec_driver_sql(queries.INSERT_PING, parameters)
        await connection.exec_driver_sql(queries.START_DELIVERY, {"id": delivery_id})
    return await _wait_for_delivery(reads, waiters, delivery_id)


async def _wait_for_delivery(reads: AsyncEngine, waiters: Waiters, delivery_id: UUID) -> Response:
    """Return the delivery once it has ended, or after `TEST_SECONDS` as it is then."""
    end = asyncio.get_running_loop().time() + TEST_SECONDS
    while True:
        async with reads.connect() as connection:
            row = (await connection.execute(queries.find_delivery(delivery_id, None))).one_or_none()
            if row is None:
                raise Problem("not-found")
            is_over = waiters.stopping or asyncio.get_running_loop().time() > end
            if row.finished_at is not None or is_over:
                tries = (await connection.execute(queries.list_tries(delivery_id))).all()
                return private_answer(delivery_model(row, tries), 200 if row.finished_at is not None else 202)
        await asyncio.sleep(TEST_POLL_SECONDS)


async def _find(connection: AsyncConnection, endpoint_id: UUID, caller: Caller) -> Any:
    row = (await connection.execute(queries.find_endpoint(endpoint_id, caller.visible_organization_id))).one_or_none()
    if row is None:
        raise Problem("not-found")
    return row


async def _lock_for_change(connection: AsyncConnection, endpoint_id: UUID, caller: Caller) -> Any:
    """Return an endpoint that the caller may change, and lock its row. Raises `not-found` or `forbidden`."""
    statement = queries.lock_endpoint(endpoint_id, caller.visible_organization_id)
    row = (await connection.execute(statement)).one_or_none()
    if row is None:
        raise Problem("not-found")
    caller.require_for(Permission.WEBHOOKS_MANAGE, row.organization_id)
    return row


def _audited(row: Any) -> dict[str, Any]:
    """Return what the audit log holds of an endpoint: not its URL, which may contain a secret, nor its description."""
    return {"event_types": row.event_types, "enabled": row.enabled}


def _apply_patch(stored: Any, body: bytes) -> bytes:
    """Return a stored endpoint as JSON with the changes of a body, to be validated again."""
    patch = load_json(body)
    if not isinstance(patch, dict):
        raise invalid("", "dict_type", "Input should be an object")
    if not patch:
        raise invalid("", "empty", "The body has no field to change.")
    fields = {name: getattr(stored, name) for name in EndpointFields.model_fields}
    return dump_part({**fields, **patch}, "")
