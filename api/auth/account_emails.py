"""Submits the tasks that send people emails about their accounts."""

from __future__ import annotations

from typing import Final
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from shared.contracts.email.account import KIND, AccountParams
from shared.queries.people import submit_tasks
from shared.tasks.options import TaskOptions
from shared.tasks.submission import PLATFORM_ID, make_task, submission_document

KIND_NAME: Final = "email.account"
_OPTIONS: Final = TaskOptions(keep_for=24 * 3600, ttl=24 * 3600, priority=8)


async def submit_account_email(connection: AsyncConnection, params: AccountParams, request_id: str | None) -> None:
    """Submit an email, in the transaction of the connection. The token in it is made when it is sent."""
    body = params.model_dump_json(exclude_defaults=True).encode()
    task = make_task(KIND_NAME, KIND, body, KIND.queue_for(params), _OPTIONS, PLATFORM_ID, PLATFORM_ID)
    task.request_id = request_id
    await connection.execute(submit_tasks(submission_document([task])))


async def email_person(connection: AsyncConnection, message: str, email_key: str, request_id: str | None) -> None:
    """Submit an email to the person with an address. Nothing is sent if there is none."""
    params = AccountParams.model_validate({"message": message, "email_key": email_key})
    await submit_account_email(connection, params, request_id)


async def email_invitation(connection: AsyncConnection, invitation_id: UUID, request_id: str | None) -> None:
    """Submit the email of an invitation."""
    await submit_account_email(connection, AccountParams(message="invitation", invitation_id=invitation_id), request_id)
