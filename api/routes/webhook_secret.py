"""`/webhook-secret`: the default secret of an organization, which signs webhooks of submissions that name none."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from sqlalchemy.ext.asyncio import AsyncConnection

from api.auditing.entries import write_entry
from api.auth.caller import Caller
from api.dependencies import ActorDependency, CipherDependency, EngineDependency, NoBody, WebhookManagerCaller
from api.http.answers import private_answer
from api.http.query_strings import NoQuery
from api.http.rate_limits import limited
from api.openapi.operations import ANY_CALLER, problem_responses
from api.webhooks.webhook_models import WebhookSecret
from shared.audit.actions import AuditAction
from shared.audit.entries import Actor, Entry
from shared.queries import webhooks as queries
from shared.stored_secrets import SecretCipher
from shared.webhooks.signing import SECRET_PURPOSE, new_secret

router = APIRouter(tags=["webhooks"])


@router.get(
    "/webhook-secret",
    summary="Get the default secret",
    response_model=WebhookSecret,
    response_description="The secret.",
    responses=problem_responses(*ANY_CALLER),
)
@limited("read")
async def get_secret(
    request: Request,
    caller: WebhookManagerCaller,
    actor: ActorDependency,
    cipher: CipherDependency,
    engine: EngineDependency,
    query: Annotated[NoQuery, Query()],
) -> Response:
    """Return the secret that signs webhooks of the organization's submissions that name no secret. It is made when needed."""
    async with engine.begin() as connection:
        statement = queries.store_default_secret(caller.organization_id, cipher.encrypt(new_secret(), SECRET_PURPOSE))
        await connection.execute(statement)
        row = (await connection.execute(queries.find_default_secret(caller.organization_id))).one()
        await _audit(connection, actor, AuditAction.WEBHOOK_SECRET_SHOWN, caller)
    return private_answer(_model(row, cipher))


@router.post(
    "/webhook-secret/rotate",
    summary="Replace the default secret",
    response_model=WebhookSecret,
    response_description="The new secret.",
    responses=problem_responses(*ANY_CALLER, "unsupported-media-type"),
)
@limited("submit")
async def rotate_default(
    request: Request,
    caller: WebhookManagerCaller,
    actor: ActorDependency,
    cipher: CipherDependency,
    engine: EngineDependency,
    query: Annotated[NoQuery, Query()],
    body: NoBody,
) -> Response:
    """Make a new default secret. For a day, each message has two signatures: that of the new one and that of the one before."""
    stored = cipher.encrypt(new_secret(), SECRET_PURPOSE)
    async with engine.begin() as connection:
        await connection.execute(queries.store_default_secret(caller.organization_id, stored))
        statement = queries.rotate_default_secret(caller.organization_id, cipher.encrypt(new_secret(), SECRET_PURPOSE))
        row = (await connection.execute(statement)).one()
        await _audit(connection, actor, AuditAction.WEBHOOK_SECRET_ROTATED, caller)
    return private_answer(_model(row, cipher))


async def _audit(connection: AsyncConnection, actor: Actor, action: AuditAction, caller: Caller) -> None:
    await write_entry(connection, Entry(actor, action, caller.organization_id, caller.organization_id))


def _model(row: Any, cipher: SecretCipher) -> WebhookSecret:
    return WebhookSecret(
        secret=cipher.decrypt(row.secret, SECRET_PURPOSE), previous_secret_until=row.previous_secret_until
    )
