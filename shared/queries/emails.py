"""The statements on the intents and receipts of emails. None of them commits."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Literal, TypedDict
from uuid import UUID

from sqlalchemy import Insert, Select, Update, func, insert, select, update
from sqlalchemy.dialects.postgresql import insert as postgresql_insert

from shared.tables.emails import email_intents, email_receipts

ReceiptStatus = Literal["accepted", "rejected", "deferred"]


class ReceiptRow(TypedDict):
    """The outcome for one recipient. `code` is None when the mail server was not asked or did not reply."""

    recipient: str
    status: ReceiptStatus
    code: int | None
    reply: str


def list_intents(task_id: UUID) -> Select[UUID, Sequence[str], datetime | None]:
    """Return `id`, `recipients` and `given_up_at` of each intent of the task, oldest first."""
    return (
        select(email_intents.c.id, email_intents.c.recipients, email_intents.c.given_up_at)
        .where(email_intents.c.task_id == task_id)
        .order_by(email_intents.c.created_at, email_intents.c.id)
    )


def list_receipts(task_id: UUID) -> Select[UUID, str, ReceiptStatus, int | None, str]:
    """Return `intent_id`, `recipient`, `status`, `code` and `reply` of each receipt of the task, oldest first."""
    return (
        select(
            email_receipts.c.intent_id,
            email_receipts.c.recipient,
            email_receipts.c.status,
            email_receipts.c.code,
            email_receipts.c.reply,
        )
        .where(email_receipts.c.task_id == task_id)
        .order_by(email_receipts.c.created_at, email_receipts.c.recipient)
    )


def insert_intent(
    intent_id: UUID, task_id: UUID, *, attempt: int, message_id: str, recipients: Sequence[str]
) -> Insert:
    """Insert the intent to send a message to these recipients."""
    return insert(email_intents).values(
        id=intent_id, task_id=task_id, attempt=attempt, message_id=message_id, recipients=list(recipients)
    )


def insert_receipts(intent_id: UUID, task_id: UUID, receipts: Sequence[ReceiptRow]) -> Insert:
    """Insert receipts. One that exists already stays as it is, so that the statement may be repeated."""
    rows = [{"intent_id": intent_id, "task_id": task_id, **receipt} for receipt in receipts]
    return postgresql_insert(email_receipts).values(rows).on_conflict_do_nothing()


def mark_unknown_as_retriable(task_ids: Sequence[UUID]) -> Update:
    """Set `given_up_at` of the tasks' intents, so that the next attempt sends to the recipients whose outcome is unknown.

    It is executed when a person asks for a retry, in the transaction of that retry, so that no automatic attempt ever
    sends a second time.
    """
    return (
        update(email_intents)
        .where(email_intents.c.task_id.in_(task_ids), email_intents.c.given_up_at.is_(None))
        .values(given_up_at=func.now())
    )
