"""`/webhook-deliveries`: the messages that were sent or are to be sent, and each try of them."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query, Request, Response

from api.auditing.entries import write_entry
from api.dependencies import (
    ActorDependency,
    EngineDependency,
    NoBody,
    ReadsDependency,
    SettingsDependency,
    WebhookManagerCaller,
    WebhookReaderCaller,
)
from api.http.answers import private_answer
from api.http.list_formats import ACCEPT, FORMAT_RESPONSES, Page, answer_list, columns_of, make_page
from api.http.problems import Problem
from api.http.query_strings import NoQuery, PageQuery
from api.http.rate_limits import limited
from api.openapi.operations import ANY_CALLER, problem_responses
from api.webhooks.representations import STATES, delivery_model
from api.webhooks.webhook_models import Outcome, WebhookDelivery, WebhookDeliveryPage
from shared.audit.actions import AuditAction
from shared.audit.entries import Entry
from shared.permissions import Permission
from shared.queries import webhooks as queries
from shared.webhooks.events import PING

router = APIRouter(tags=["webhooks"])


class ListQuery(PageQuery):
    """The page of a list, and its filters."""

    endpoint_id: Annotated[UUID | None, Query(description="Only deliveries to this endpoint.")] = None
    task_id: Annotated[UUID | None, Query(description="Only deliveries about this task.")] = None
    outcome: Annotated[Outcome | None, Query(description="Only deliveries with this outcome.")] = None


@router.get(
    "/webhook-deliveries",
    summary="List deliveries, newest first",
    responses={
        200: {"model": WebhookDeliveryPage, "description": "A page of deliveries.", "content": FORMAT_RESPONSES},
        **problem_responses(*ANY_CALLER, "not-acceptable"),
    },
    openapi_extra={"parameters": [ACCEPT]},
)
@limited("read")
async def list_deliveries(
    request: Request,
    caller: WebhookReaderCaller,
    settings: SettingsDependency,
    reads: ReadsDependency,
    query: Annotated[ListQuery, Query()],
) -> Response:
    """Return the deliveries that the caller may see. A delivery is kept for 30 days after it ended."""

    async def read(before_id: UUID | None, limit: int) -> Page:
        statement = queries.list_deliveries(
            caller.visible_organization_id,
            before_id,
            limit + 1,
            endpoint_id=query.endpoint_id,
            task_id=query.task_id,
            states=STATES[query.outcome] if query.outcome is not None else None,
        )
        async with reads.connect() as connection:
            rows = (await connection.execute(statement)).all()
        return make_page(rows, limit, delivery_model)

    columns = columns_of(WebhookDelivery, "attempts", "links")
    return await answer_list(request, settings, query, read=read, columns=columns)


@router.get(
    "/webhook-deliveries/{delivery_id}",
    summary="Get a delivery with its tries",
    response_model=WebhookDelivery,
    response_description="The delivery.",
    responses=problem_responses(*ANY_CALLER, "not-found"),
)
@limited("read")
async def get_delivery(
    request: Request,
    delivery_id: UUID,
    caller: WebhookReaderCaller,
    reads: ReadsDependency,
    query: Annotated[NoQuery, Query()],
) -> Response:
    """Return a delivery, and the status, duration and beginning of the answer of each try."""
    async with reads.connect() as connection:
        statement = queries.find_delivery(delivery_id, caller.visible_organization_id)
        row = (await connection.execute(statement)).one_or_none()
        if row is None:
            raise Problem("not-found")
        tries = (await connection.execute(queries.list_tries(delivery_id))).all()
    return private_answer(delivery_model(row, tries))


@router.post(
    "/webhook-deliveries/{delivery_id}/redeliver",
    status_code=202,
    summary="Send a delivery again",
    response_model=WebhookDelivery,
    response_description="The delivery, which is pending again.",
    responses=problem_responses(*ANY_CALLER, "not-found", "gone", "conflict", "unsupported-media-type"),
)
@limited("submit")
async def redeliver_webhook(
    request: Request,
    delivery_id: UUID,
    caller: WebhookManagerCaller,
    actor: ActorDependency,
    engine: EngineDependency,
    query: Annotated[NoQuery, Query()],
    body: NoBody,
) -> Response:
    """Send a delivery that has ended once more, with the same `webhook-id` and body, for up to three days."""
    async with engine.begin() as connection:
        statement = queries.lock_delivery(delivery_id, caller.visible_organization_id)
        row = (await connection.execute(statement)).one_or_none()
        if row is None:
            raise Problem("not-found")
        caller.require_for(Permission.WEBHOOKS_MANAGE, row.organization_id)
        if row.finished_at is None:
            raise Problem("conflict", "The delivery has not ended yet. It is tried again by itself: see `next_try_at`.")
        if row.endpoint_is_disabled and row.event_type != PING:
            raise Problem("conflict", "The endpoint of the delivery is disabled. Enable it first, then redeliver.")
        if not row.has_data:
            raise Problem("gone", "What the delivery contained was erased with its task.")
        await connection.exec_driver_sql(queries.ALLOW_MORE_TRIES, {"id": delivery_id})
        await connection.exec_driver_sql(queries.START_DELIVERY, {"id": delivery_id})
        entry = Entry(actor, AuditAction.DELIVERY_REDELIVERED, delivery_id, row.organization_id)
        await write_entry(connection, entry)
        row = (await connection.execute(queries.find_delivery(delivery_id, None))).one()
    return private_answer(delivery_model(row), 202)
