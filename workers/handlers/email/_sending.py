"""Sends one message to each recipient at most once, unless a person asks for a retry.

The order of the steps guarantees this:

1. An intent is committed before the message is sent.
2. A receipt for each recipient is committed after the mail server has replied.

An attempt that finds an intent without a receipt knows that an earlier attempt ended between the two. It fails with
`/problems/delivery-unknown` and sends nothing. When a session ends before the message itself was sent, nothing is
unknown: receipts that state this are committed.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from uuid import UUID

from shared import kill_points
from shared.contracts.email._mailboxes import BadMailbox, Mailbox, parse_mailbox
from shared.contracts.email.send import MAX_ATTACHMENTS_BYTES, SendParams, SendResult
from shared.errors import ConfigurationError
from shared.limits import sender_is_allowed
from workers.adapters.smtp import (
    AnswerMissing,
    LoginRefused,
    MailServer,
    MailServerUnavailable,
    MailSession,
    SmtpServer,
    parse_smtp_url,
)
from workers.handler_context import HandlerContext
from workers.handlers.email._attachments import AttachedFile
from workers.handlers.email._deliveries import CUT_OFF, UNKNOWN, Outcome, read_deliveries, write_intent, write_receipts
from workers.handlers.email._message import Message, compose_message
from workers.outcomes import Failed, Stopped

FIRST_RETRY_SECONDS = 30.0
LONGEST_RETRY_SECONDS = 3600.0
LONGEST_REPLY_SECONDS = 600.0
"""How long a server may take to reply to a message (RFC 5321 section 4.5.3.2.6)."""
FRESH_INTENT_SECONDS = 1.0
"""For how long the commit of an intent proves that the attempt still has its claim."""
RESERVED_SECONDS = 5.0
"""The part of the attempt's time that is kept for writing the receipts."""

NO_SMTPUTF8 = Outcome(
    "rejected", None, "The mail server does not support addresses with characters beyond ASCII (SMTPUTF8)."
)
NO_8BITMIME = Outcome(
    "rejected",
    None,
    "The mail server does not support messages with bytes beyond ASCII (8BITMIME), such as the one attached.",
)


def make_mail_server(context: HandlerContext) -> MailServer:
    """Return the mail server of the settings. Raises `ConfigurationError` when they are not valid."""
    return SmtpServer(parse_smtp_url(context.settings.smtp_url.get_secret_value()))


def deliver(params: SendParams, context: HandlerContext, server: MailServer) -> SendResult:
    """Send the message to the pending recipients, and return the outcome for all. Raises `Failed`."""
    recipients = {mailbox.address: mailbox for mailbox in params.list_recipients()}
    known = read_deliveries(context)
    outcomes = dict(known.outcomes)
    if known.unknown:
        outcomes |= dict.fromkeys(known.unknown, UNKNOWN)
        raise _fail_as_unknown(recipients, outcomes)
    pending = known.list_pending(recipients)
    if not pending:
        return _conclude(context, recipients, outcomes)

    _require_allowed_sender(params, context)
    message = _compose(params, context)
    try:
        with server.connect(context.check) as session:
            context.check()
            # Measured from before the commit: the attempt had its claim then, and the process may be paused afterwards.
            intent_began = time.monotonic()
            intent_id = write_intent(context, message.message_id, pending)
            kill_points.reach("after-intent")
            sending = [recipients[address] for address in pending]
            outcomes |= _send(session, message, sending, context, intent_id, intent_began)
    except MailServerUnavailable as error:
        context.log.warning("mail_server_unavailable", reason=error.reason, code=error.code)
        for address in pending:
            outcomes.setdefault(address, Outcome("deferred", error.code, f"No session with the mail server: {error}."))
        if _has_attempts_left(context) or not _list_with("accepted", outcomes):
            raise _fail_as_unavailable(context, error, recipients, outcomes) from error
    return _conclude(context, recipients, outcomes)


def _require_allowed_sender(params: SendParams, context: HandlerContext) -> None:
    """Raise `Failed` unless the limits of the owner allow the sender.

    A submission was compared with them, but not a sender that a workflow filled in later; and they may have changed since.
    """
    if params.sender is None or not (lists := context.held_limits().sender_lists()):
        return
    address, own = parse_mailbox(params.sender).address, parse_mailbox(context.settings.mail_from).address
    if address.lower() != own.lower() and not all(sender_is_allowed(address, allowed) for allowed in lists):
        raise Failed(
            "/problems/quota-senders",
            "Sender not allowed",
            f"{address} is not among the senders that you or your organization may use. Nothing was sent.",
        )


def _compose(params: SendParams, context: HandlerContext) -> Message:
    """Read the attachments and compose the message. Raises `Failed` when they are too large or cannot be sent."""
    attached = []
    for attachment in params.attachments:
        file = context.input_file(attachment.file_id)
        attached.append(AttachedFile(file, attachment.name or file.name, attachment.media_type))
    total_bytes = sum(item.file.size for item in attached)
    if total_bytes > MAX_ATTACHMENTS_BYTES:
        raise Failed(
            "/problems/message-too-large",
            "Message too large",
            f"The attachments have {total_bytes} bytes together. At most {MAX_ATTACHMENTS_BYTES} are allowed.",
        )
    try:
        default_sender = parse_mailbox(context.settings.mail_from)
    except BadMailbox as error:
        raise ConfigurationError(f"TASKMILL_MAIL_FROM is not a mailbox: {error}") from None
    return compose_message(params, attached, task_id=context.task_id, default_sender=default_sender)


def _send(
    session: MailSession,
    message: Message,
    pending: Sequence[Mailbox],
    context: HandlerContext,
    intent_id: UUID,
    intent_began: float,
) -> dict[str, Outcome]:
    """Send the message, commit the receipts, and return the outcomes.

    The receipts are committed even when the attempt must stop, unless it has lost its claim. Raises `LoginRefused` when
    the server requires a login after all.
    """
    outcomes: dict[str, Outcome] = {}
    login_refused: LoginRefused | None = None

    def fill_in(outcome: Outcome) -> None:
        for mailbox in pending:
            outcomes.setdefault(mailbox.address, outcome)

    try:
        for address, outcome in _converse(session, message, pending, context, intent_id, intent_began):
            outcomes[address] = outcome
    except MailServerUnavailable as error:
        login_refused = error if isinstance(error, LoginRefused) else None
        fill_in(CUT_OFF if error.code is None else Outcome("deferred", error.code, f"No message was sent: {error}."))
    except AnswerMissing as error:
        context.log.warning("mail_answer_missing", reason=str(error))
    except Stopped:
        fill_in(Outcome("deferred", None, "The attempt was stopped before the message was sent."))
        write_receipts(context, intent_id, outcomes)
        raise
    write_receipts(context, intent_id, outcomes)
    kill_points.reach("after-receipt")
    counts = {status: len(_list_with(status, outcomes)) for status in ("accepted", "rejected", "deferred", "unknown")}
    context.log.info("email_sent", **counts)
    if login_refused is not None:
        raise login_refused
    return outcomes


def _converse(
    session: MailSession,
    message: Message,
    pending: Sequence[Mailbox],
    context: HandlerContext,
    intent_id: UUID,
    intent_began: float,
) -> Iterator[tuple[str, Outcome]]:
    """Go through the SMTP dialogue, and yield each address with its outcome as soon as it is known.

    A later outcome of an address replaces an earlier one: each is `UNKNOWN` while the message is being sent.
    """
    refused = {
        mailbox.address: outcome for mailbox in pending if (outcome := _find_obstacle(session, message, mailbox))
    }
    yield from refused.items()
    remaining = [mailbox for mailbox in pending if mailbox.address not in refused]
    if not remaining:
        return
    reply = session.start_message(
        message.sender.wire_address,
        size_bytes=len(message.content),
        eight_bit=message.needs_8bitmime,
        smtputf8=message.needs_smtputf8 or any(mailbox.needs_smtputf8 for mailbox in remaining),
    )
    if not reply.accepts:
        yield from _for_each(remaining, Outcome.from_reply(reply))
        return

    accepted: list[Mailbox] = []
    for mailbox in remaining:
        reply = session.add_recipient(mailbox.wire_address)
        if reply.accepts:
            accepted.append(mailbox)
        else:
            # A 421 announces that the server closes the connection. Some servers reply so to one recipient and continue:
            # the next command shows which it is.
            refused[mailbox.address] = Outcome.from_recipient_reply(reply)
            yield mailbox.address, refused[mailbox.address]
    if not accepted:
        return
    # If the process dies while the message is being sent, the outcome is unknown for the accepted recipients only.
    write_receipts(context, intent_id, refused)

    refusal = session.open_content()
    if refusal is not None:
        yield from _for_each(accepted, Outcome.from_reply(refusal))
        return
    _check_claim(context, intent_began)
    seconds = min(LONGEST_REPLY_SECONDS, max(RESERVED_SECONDS, context.remaining_seconds() - RESERVED_SECONDS))
    # Whatever happens from here on, the outcome is unknown until the reply states it.
    yield from _for_each(accepted, UNKNOWN)
    reply = session.send_content(message.content, timeout_seconds=seconds)
    kill_points.reach("after-smtp-accept")
    yield from _for_each(accepted, Outcome.from_reply(reply))


def _find_obstacle(session: MailSession, message: Message, mailbox: Mailbox) -> Outcome | None:
    """Return the outcome of a recipient to whom the message cannot be sent through this server, or None."""
    if (message.needs_smtputf8 or mailbox.needs_smtputf8) and not session.offers_smtputf8:
        return NO_SMTPUTF8
    if message.needs_8bitmime and not session.offers_8bitmime:
        return NO_8BITMIME
    return None


def _for_each(mailboxes: Sequence[Mailbox], outcome: Outcome) -> Iterator[tuple[str, Outcome]]:
    return ((mailbox.address, outcome) for mailbox in mailboxes)


def _check_claim(context: HandlerContext, intent_began: float) -> None:
    """Raise `Stopped` when the attempt must stop; ask the database too, unless the intent was committed just before.

    A process that was paused may continue after its task was swept, failed as unknown, and sent again.
    """
    context.check()
    if time.monotonic() - intent_began > FRESH_INTENT_SECONDS:
        with context.fenced_transaction():
            pass


def _conclude(
    context: HandlerContext, recipients: Mapping[str, Mailbox], outcomes: Mapping[str, Outcome]
) -> SendResult:
    """Return the result, or raise `Failed`, once every recipient has an outcome."""
    if _list_with("unknown", outcomes):
        raise _fail_as_unknown(recipients, outcomes)
    if _list_with("deferred", outcomes) and _has_attempts_left(context):
        raise Failed(
            "/problems/mail-deferred",
            "Mail deferred",
            "The mail server asked to try again later for some recipients.",
            retryable=True,
            after_seconds=_choose_delay(context),
            data=_make_data(recipients, outcomes),
        )
    # There is no later attempt, so a deferred recipient is rejected, with the code of the reply that deferred it.
    final = {
        address: outcome._replace(status="rejected") if outcome.status == "deferred" else outcome
        for address, outcome in outcomes.items()
    }
    if not _list_with("accepted", final):
        raise Failed(
            "/problems/mail-rejected",
            "Mail rejected",
            "The mail server accepted the message for none of its recipients.",
            data=_make_data(recipients, final),
        )
    return SendResult.model_validate(_make_data(recipients, final))


def _fail_as_unknown(recipients: Mapping[str, Mailbox], outcomes: Mapping[str, Outcome]) -> Failed:
    return Failed(
        "/problems/delivery-unknown",
        "Delivery unknown",
        "The attempt or its connection ended while the message was being sent, so it is unknown whether the mail server "
        "accepted it. A retry sends it to the recipients whose status is `unknown`, who may then receive it twice.",
        data=_make_data(recipients, outcomes),
    )


def _fail_as_unavailable(
    context: HandlerContext,
    error: MailServerUnavailable,
    recipients: Mapping[str, Mailbox],
    outcomes: Mapping[str, Outcome],
) -> Failed:
    login = isinstance(error, LoginRefused)
    return Failed(
        "/problems/mail-login-refused" if login else "/problems/mail-server-unavailable",
        "Mail login refused" if login else "Mail server unavailable",
        f"There was no session with the mail server, and this attempt sent nothing: {error}.",
        retryable=True,
        after_seconds=_choose_delay(context),
        data=_make_data(recipients, outcomes),
    )


def _has_attempts_left(context: HandlerContext) -> bool:
    return context.attempt < context.max_attempts


def _choose_delay(context: HandlerContext) -> float:
    """Return the seconds until the next attempt: 30 after the first one, then twice as long each time, up to an hour."""
    return min(LONGEST_RETRY_SECONDS, FIRST_RETRY_SECONDS * 2.0 ** min(context.attempt - 1, 30))


def _list_with(status: str, outcomes: Mapping[str, Outcome]) -> list[str]:
    return [address for address, outcome in outcomes.items() if outcome.status == status]


def _make_data(
    recipients: Mapping[str, Mailbox], outcomes: Mapping[str, Outcome]
) -> dict[str, list[dict[str, str | int | None]]]:
    """Return `{"recipients": [{address, status, code, reply}]}`, in the order in which the message names them."""
    known = ((address, outcomes[address]) for address in recipients if address in outcomes)
    return {
        "recipients": [
            {"address": address, "status": outcome.status, "code": outcome.code, "reply": outcome.reply}
            for address, outcome in known
        ]
    }
