"""The statements on emails' intents and receipts. None commits; each names the task that it is about."""

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
    """What the server answered for one recipient; `code` is None when the server was not asked, or hung up."""

    recipient: str
    status: ReceiptStatus
    code: int | None
    reply: str


def list_intents(task_id: UUID) -> Select[UUID, Sequence[str], datetime | None]:
    """Give `id`, `recipients` and `given_up_at` of each intent of the task, oldest first."""
    return (
        select(email_intents.c.id, email_intents.c.recipients, email_intents.c.given_up_at)
        .where(email_intents.c.task_id == task_id)
        .order_by(email_intents.c.created_at, email_intents.c.id)
    )


def list_receipts(task_id: UUID) -> Select[UUID, str, ReceiptStatus, int | None, str]:
    """Give `intent_id`, `recipient`, `status`, `code` and `reply` of each receipt of the task, oldest first."""
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
    """Write that a message is about to go to these recipients."""
    return insert(email_intents).values(
        id=intent_id, task_id=task_id, attempt=attempt, message_id=message_id, recipients=list(recipients)
    )


def insert_receipts(intent_id: UUID, task_id: UUID, receipts: Sequence[ReceiptRow]) -> Insert:
    """Write what the server answered. A receipt that is there already stays: the statement may be repeated."""
    rows = [{"intent_id": intent_id, "task_id": task_id, **receipt} for receipt in receipts]
    return postgresql_insert(email_receipts).values(rows).on_conflict_do_nothing()


def mark_unknown_as_retriable(task_id: UUID) -> Update:
    """Let the task's next attempt send to those of whom nobody knows: to be executed when a person asks for a retry.

    It belongs into the transaction of that retry, so that no automatic attempt can ever come to see its effect.
    """
    return (
        update(email_intents)
        .where(email_intents.c.task_id == task_id, email_intents.c.given_up_at.is_(None))
        .values(given_up_at=func.now())
    )
