"""What is known of one email's way to each of its recipients, and how it is written down.

An intent says that a message is about to go to some recipients, a receipt what the server answered for one of them. An
intent with a recipient without a receipt means that nobody can know, until a person asks for the task to be tried
again, which gives the intent up.
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
from shared.tables.emails import MAX_REPLY_LENGTH
from workers.adapters.smtp import Reply
from workers.handler_context import HandlerContext

WRITE_AGAIN_SECONDS = 1.0
WRITE_FOR_SECONDS = 60.0
"""How long a receipt is tried to be written while the database does not answer."""


class Verdict(NamedTuple):
    """What became of the message for one recipient, so far. `code` is None where the server did not answer."""

    status: ReceiptStatus | Literal["unknown"]
    code: int | None = None
    reply: str = ""

    @classmethod
    def from_reply(cls, reply: Reply) -> Verdict:
        """Read a reply: 2xx is accepted, 5xx is rejected, and all else is to be tried again (RFC 5321 4.2.1)."""
        status: ReceiptStatus = "accepted" if reply.accepts else "rejected" if reply.rejects else "deferred"
        return cls(status, reply.code, reply.text[:MAX_REPLY_LENGTH])


UNKNOWN = Verdict("unknown")
CUT_OFF = Verdict("deferred", None, "The mail server hung up before it was sent.")
HANGING_UP = 421
"""The reply of a server that closes the connection (RFC 5321 section 3.8)."""


@dataclass(frozen=True)
class Deliveries:
    """What the database knows of a task's message."""

    verdicts: Mapping[str, Verdict]
    """By address: the latest receipt, but an acceptance for good."""
    unknown: frozenset[str]
    """Those for whom an intent stands without a receipt, and no person has given it up."""
    asked_again: bool
    """Whether a person asked for the task to be tried again, and nothing was sent since."""

    def list_waiting(self, recipients: Iterable[str]) -> list[str]:
        """Give those to whom the message is still to go.

        When everyone has refused it and a person asks again, that is everyone: else there would be nothing to do.
        """
        waiting = [address for address in recipients if self._still_waits(address)]
        if not waiting and self.asked_again and all(verdict.status == "rejected" for verdict in self.verdicts.values()):
            return list(recipients)
        # Some servers hang up over one recipient, with a 421. Those who were cut off by that go first, without it.
        if any(self.verdicts.get(address) == CUT_OFF for address in waiting):
            waiting = [address for address in waiting if self._code_of(address) != HANGING_UP]
        return waiting

    def _code_of(self, address: str) -> int | None:
        verdict = self.verdicts.get(address)
        return verdict.code if verdict is not None else None

    def _still_waits(self, address: str) -> bool:
        verdict = self.verdicts.get(address)
        return verdict is None or verdict.status == "deferred"


def read_deliveries(context: HandlerContext) -> Deliveries:
    """Read the intents and receipts of the attempt's task."""
    with context.fenced_transaction() as connection:
        intents = connection.execute(emails.list_intents(context.task_id)).all()
        receipts = connection.execute(emails.list_receipts(context.task_id)).all()
    verdicts: dict[str, Verdict] = {}
    answered: set[tuple[UUID, str]] = set()
    for receipt in receipts:
        answered.add((receipt.intent_id, receipt.recipient))
        if receipt.recipient not in verdicts or verdicts[receipt.recipient].status != "accepted":
            verdicts[receipt.recipient] = Verdict(receipt.status, receipt.code, receipt.reply)
    unknown = {
        address
        for intent in intents
        if intent.given_up_at is None
        for address in intent.recipients
        if (intent.id, address) not in answered
    }
    asked_again = bool(intents) and all(intent.given_up_at is not None for intent in intents)
    return Deliveries(verdicts, frozenset(unknown), asked_again)


def write_intent(context: HandlerContext, message_id: str, recipients: Sequence[str]) -> UUID:
    """Write, durably, that the message is about to go to these, and give the intent's id."""
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


def write_receipts(context: HandlerContext, intent_id: UUID, verdicts: Mapping[str, Verdict]) -> None:
    """Write, durably, what the server answered; of whom it is unknown, nothing is written.

    While the database does not answer, it is tried again for a minute: the knowledge is nowhere else. Raises
    `ClaimLost` when the attempt may no longer write.
    """
    receipts: list[ReceiptRow] = [
        {"recipient": address, "status": verdict.status, "code": verdict.code, "reply": verdict.reply}
        for address, verdict in verdicts.items()
        if verdict.status != "unknown"
    ]
    if not receipts:
        return
    end = time.monotonic() + WRITE_FOR_SECONDS
    while True:
        try:
            with context.fenced_transaction() as connection:
                connection.execute(emails.insert_receipts(intent_id, context.task_id, receipts))
            return
        except (OperationalError, InterfaceError, PoolTimeoutError):
            if time.monotonic() >= end:
                raise
            context.log.warning("email_receipts_not_yet_written", recipients=len(receipts))
            time.sleep(WRITE_AGAIN_SECONDS)
