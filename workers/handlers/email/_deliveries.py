"""Reads and writes the intents and receipts of an email: what is known about its delivery to each recipient.

An intent states that a message is about to be sent to some recipients. A receipt states what the mail server replied
for one of them. When an intent has a recipient without a receipt, it is unknown whether that recipient has the message.
The task then sends nothing until a person asks for a retry, which gives the intent up.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple
from uuid import UUID

from sqlalchemy.exc import InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from shared.identifiers import new_id
from shared.queries import emails
from shared.queries.emails import ReceiptRow, ReceiptStatus
from shared.tables.emails import MAX_STORED_REPLY_CHARACTERS
from workers.adapters.smtp import Reply
from workers.handler_context import HandlerContext

WRITE_RETRY_SECONDS = 1.0
WRITE_TIMEOUT_SECONDS = 60.0
"""For how long writing a receipt is tried again while the database does not answer."""
RECIPIENTS_EXCEEDED = 552
CLOSING_CONNECTION = 421
"""The reply of a server that is about to close the connection (RFC 5321 section 3.8)."""


class Outcome(NamedTuple):
    """The outcome for one recipient so far. `code` is None where the server did not reply."""

    status: ReceiptStatus | Literal["unknown"]
    code: int | None = None
    reply: str = ""

    @classmethod
    def from_reply(cls, reply: Reply) -> Outcome:
        """Return the outcome of a reply: 2xx accepts, 5xx rejects, everything else defers (RFC 5321 section 4.2.1)."""
        status: ReceiptStatus = "accepted" if reply.accepts else "rejected" if reply.rejects else "deferred"
        return cls(status, reply.code, reply.text[:MAX_STORED_REPLY_CHARACTERS])

    @classmethod
    def from_recipient_reply(cls, reply: Reply) -> Outcome:
        """Return the outcome of a reply to RCPT, where 552 defers as 452 does (RFC 5321 section 4.5.3.1.10).

        Servers send it for the recipients beyond the number that they accept in one session.
        """
        outcome = cls.from_reply(reply)
        return outcome._replace(status="deferred") if reply.code == RECIPIENTS_EXCEEDED else outcome


UNKNOWN = Outcome("unknown")
CUT_OFF = Outcome("deferred", None, "The mail server closed the connection before the message was sent.")


@dataclass(frozen=True)
class Deliveries:
    """The state of a task's message in the database."""

    outcomes: Mapping[str, Outcome]
    """By address: the acceptance if there is one, else the latest receipt."""
    unknown: frozenset[str]
    """The recipients of an intent that is not given up, for whom there is no receipt."""
    is_retried_by_person: bool
    """Whether a person asked for a retry, and nothing was sent since."""

    def list_pending(self, recipients: Iterable[str]) -> list[str]:
        """Return the recipients to whom this attempt sends the message.

        These are the ones without a final outcome. When all were rejected and a person asks for a retry, it is all of
        them.
        """
        pending = [address for address in recipients if self._is_pending(address)]
        all_rejected = all(outcome.status == "rejected" for outcome in self.outcomes.values())
        if not pending and self.is_retried_by_person and all_rejected:
            return list(recipients)
        # Some servers reply 421 to one recipient and close the connection, before the others could be named. This
        # attempt names those others only, so that they do not fail because of that recipient again.
        if any(self.outcomes.get(address) == CUT_OFF for address in pending):
            pending = [address for address in pending if self._code_of(address) != CLOSING_CONNECTION]
        return pending

    def _code_of(self, address: str) -> int | None:
        outcome = self.outcomes.get(address)
        return outcome.code if outcome is not None else None

    def _is_pending(self, address: str) -> bool:
        outcome = self.outcomes.get(address)
        return outcome is None or outcome.status == "deferred"


def read_deliveries(context: HandlerContext) -> Deliveries:
    """Return what the intents and receipts of the attempt's task state."""
    with context.fenced_transaction() as connection:
        intents = connection.execute(emails.list_intents(context.task_id)).all()
        receipts = connection.execute(emails.list_receipts(context.task_id)).all()
    outcomes: dict[str, Outcome] = {}
    answered: set[tuple[UUID, str]] = set()
    for receipt in receipts:
        answered.add((receipt.intent_id, receipt.recipient))
        if receipt.recipient not in outcomes or outcomes[receipt.recipient].status != "accepted":
            outcomes[receipt.recipient] = Outcome(receipt.status, receipt.code, receipt.reply)
    unknown = {
        address
        for intent in intents
        if intent.given_up_at is None
        for address in intent.recipients
        if (intent.id, address) not in answered
    }
    is_retried_by_person = bool(intents) and all(intent.given_up_at is not None for intent in intents)
    return Deliveries(outcomes, frozenset(unknown), is_retried_by_person)


def write_intent(context: HandlerContext, message_id: str, recipients: Sequence[str]) -> UUID:
    """Commit an intent: the message is about to be sent to these recipients. Return the intent's id."""
    intent_id = new_id()
    with context.fenced_transaction() as connection:
        connection.execute(
            emails.insert_intent(
                intent_id,
                context.task_id,
                attempt=context.attempt,
                message_id=message_id,
                recipients=recipients,
            )
        )
    return intent_id


def write_receipts(context: HandlerContext, intent_id: UUID, outcomes: Mapping[str, Outcome]) -> None:
    """Commit a receipt for each outcome but the unknown ones.

    While the database does not answer, this is tried again for `WRITE_TIMEOUT_SECONDS`, because the outcomes are stored
    nowhere else. Raises `ClaimLost` when the attempt has lost its claim.
    """
    receipts: list[ReceiptRow] = [
        {"recipient": address, "status": outcome.status, "code": outcome.code, "reply": outcome.reply}
        for address, outcome in outcomes.items()
        if outcome.status != "unknown"
    ]
    if not receipts:
        return
    end = time.monotonic() + WRITE_TIMEOUT_SECONDS
    while True:
        try:
            with context.fenced_transaction() as connection:
                connection.execute(emails.insert_receipts(intent_id, context.task_id, receipts))
            return
        except (OperationalError, InterfaceError, PoolTimeoutError):
            if time.monotonic() >= end:
                raise
            context.log.warning("email_receipts_write_failed", recipients=len(receipts))
            time.sleep(WRITE_RETRY_SECONDS)
