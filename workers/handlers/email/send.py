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
from workers.handlers.email._deliveries import CUT_OFF, UNKNOWN, Verdict, read_deliveries, write_intent, write_receipts
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

NO_SMTPUTF8 = Verdict(
    "rejected", None, "The mail server does not support addresses with characters beyond ASCII (SMTPUTF8)."
)
NO_8BITMIME = Verdict(
    "rejected",
    None,
    "The mail server does not support messages with bytes beyond ASCII (8BITMIME), such as the one attached.",
)


def handle(params: SendParams, context: HandlerContext) -> SendResult:
    """Send through the mail server in the settings. Raises `ConfigurationError` when the settings are not valid."""
    return deliver(params, context, SmtpServer(parse_smtp_url(context.settings.smtp_url.get_secret_value())))


def deliver(params: SendParams, context: HandlerContext, server: MailServer) -> SendResult:
    """Send the message to the pending recipients, and return the outcome for all. Raises `Failed`."""
    recipients = {mailbox.address: mailbox for mailbox in params.list_recipients()}
    known = read_deliveries(context)
    verdicts = dict(known.verdicts)
    if known.unknown:
        verdicts |= dict.fromkeys(known.unknown, UNKNOWN)
        raise _fail_as_unknown(recipients, verdicts)
    pending = known.list_pending(recipients)
    if not pending:
        return _conclude(context, recipients, verdicts)

    message = _compose(params, context)
    try:
        with server.connect(context.check) as session:
            context.check()
            # Measured from before the commit: the attempt had its claim then, and the process may be paused afterwards.
            intent_began = time.monotonic()
            intent_id = write_intent(context, message.message_id, pending)
            kill_points.reach("after-intent")
            sending = [recipients[address] for address in pending]
            verdicts |= _send(session, message, sending, context, intent_id, intent_began)
    except MailServerUnavailable as error:
        context.log.warning("mail_server_unavailable", reason=error.reason, code=error.code)
        for address in pending:
            verdicts.setdefault(address, Verdict("deferred", error.code, f"No session with the mail server: {error}."))
        if _has_attempts_left(context) or not _list_with("accepted", verdicts):
            raise _fail_as_unavailable(context, error, recipients, verdicts) from error
    return _conclude(context, recipients, verdicts)


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
) -> dict[str, Verdict]:
    """Send the message, commit the receipts, and return the verdicts.

    The receipts are committed even when the attempt must stop, unless it has lost its claim. Raises `LoginRefused` when
    the server requires a login after all.
    """
    verdicts: dict[str, Verdict] = {}
    login_refused: LoginRefused | None = None

    def fill_in(verdict: Verdict) -> None:
        for mailbox in pending:
            verdicts.setdefault(mailbox.address, verdict)

    try:
        for address, verdict in _converse(session, message, pending, context, intent_id, intent_began):
            verdicts[address] = verdict
    except MailServerUnavailable as error:
        login_refused = error if isinstance(error, LoginRefused) else None
        fill_in(CUT_OFF if error.code is None else Verdict("deferred", error.code, f"No message was sent: {error}."))
    except AnswerMissing as error:
        context.log.warning("mail_answer_missing", reason=str(error))
    except Stopped:
        fill_in(Verdict("deferred", None, "The attempt was stopped before the message was sent."))
        write_receipts(context, intent_id, verdicts)
        raise
    write_receipts(context, intent_id, verdicts)
    kill_points.reach("after-receipt")
    counts = {status: len(_list_with(status, verdicts)) for status in ("accepted", "rejected", "deferred", "unknown")}
    context.log.info("email_sent", **counts)
    if login_refused is not None:
        raise login_refused
    return verdicts


def _converse(
    session: MailSession,
    message: Message,
    pending: Sequence[Mailbox],
    context: HandlerContext,
    intent_id: UUID,
    intent_began: float,
) -> Iterator[tuple[str, Verdict]]:
    """Go through the SMTP dialogue, and yield each address with its verdict as soon as it is known.

    A later verdict of an address replaces an earlier one: each is `UNKNOWN` while the message is being sent.
    """
    refused = {
        mailbox.address: verdict for mailbox in pending if (verdict := _find_obstacle(session, message, mailbox))
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
        yield from _give_all(remaining, Verdict.from_reply(reply))
        return

    accepted: list[Mailbox] = []
    for mailbox in remaining:
        reply = session.add_recipient(mailbox.wire_address)
        if reply.accepts:
            accepted.append(mailbox)
        else:
            # A 421 announces that the server closes the connection. Some servers reply so to one recipient and continue:
            # the next command shows which it is.
            refused[mailbox.address] = Verdict.from_recipient_reply(reply)
            yield mailbox.address, refused[mailbox.address]
    if not accepted:
        return
    # If the process dies while the message is being sent, the outcome is unknown for the accepted recipients only.
    write_receipts(context, intent_id, refused)

    refusal = session.open_content()
    if refusal is not None:
        yield from _give_all(accepted, Verdict.from_reply(refusal))
        return
    _check_claim(context, intent_began)
    seconds = min(LONGEST_REPLY_SECONDS, max(RESERVED_SECONDS, context.remaining_seconds() - RESERVED_SECONDS))
    # Whatever happens from here on, the outcome is unknown until the reply states it.
    yield from _give_all(accepted, UNKNOWN)
    reply = session.send_content(message.content, timeout_seconds=seconds)
    kill_points.reach("after-smtp-accept")
    yield from _give_all(accepted, Verdict.from_reply(reply))


def _find_obstacle(session: MailSession, message: Message, mailbox: Mailbox) -> Verdict | None:
    """Return the verdict of a recipient to whom the message cannot be sent through this server, or None."""
    if (message.needs_smtputf8 or mailbox.needs_smtputf8) and not session.offers_smtputf8:
        return NO_SMTPUTF8
    if message.needs_8bitmime and not session.offers_8bitmime:
        return NO_8BITMIME
    return None


def _give_all(mailboxes: Sequence[Mailbox], verdict: Verdict) -> Iterator[tuple[str, Verdict]]:
    return ((mailbox.address, verdict) for mailbox in mailboxes)


def _check_claim(context: HandlerContext, intent_began: float) -> None:
    """Raise `Stopped` when the attempt must stop; ask the database too, unless the intent was committed just before.

    A process that was paused may continue after its task was swept, failed as unknown, and sent again.
    """
    context.check()
    if time.monotonic() - intent_began > FRESH_INTENT_SECONDS:
        with context.fenced_transaction():
            pass


def _conclude(
    context: HandlerContext, recipients: Mapping[str, Mailbox], verdicts: Mapping[str, Verdict]
) -> SendResult:
    """Return the result, or raise `Failed`, once every recipient has a verdict."""
    if _list_with("unknown", verdicts):
        raise _fail_as_unknown(recipients, verdicts)
    if _list_with("deferred", verdicts) and _has_attempts_left(context):
        raise Failed(
            "/problems/mail-deferred",
            "Mail deferred",
            "The mail server asked to try again later for some recipients.",
            retryable=True,
            after_seconds=_choose_delay(context),
            data=_make_data(recipients, verdicts),
        )
    # There is no later attempt, so a deferred recipient is rejected, with the code of the reply that deferred it.
    final = {
        address: verdict._replace(status="rejected") if verdict.status == "deferred" else verdict
        for address, verdict in verdicts.items()
    }
    if not _list_with("accepted", final):
        raise Failed(
            "/problems/mail-rejected",
            "Mail rejected",
            "The mail server accepted the message for none of its recipients.",
            data=_make_data(recipients, final),
        )
    return SendResult.model_validate(_make_data(recipients, final))


def _fail_as_unknown(recipients: Mapping[str, Mailbox], verdicts: Mapping[str, Verdict]) -> Failed:
    return Failed(
        "/problems/delivery-unknown",
        "Delivery unknown",
        "The attempt or its connection ended while the message was being sent, so it is unknown whether the mail server "
        "accepted it. A retry sends it to the recipients whose status is `unknown`, who may then receive it twice.",
        data=_make_data(recipients, verdicts),
    )


def _fail_as_unavailable(
    context: HandlerContext,
    error: MailServerUnavailable,
    recipients: Mapping[str, Mailbox],
    verdicts: Mapping[str, Verdict],
) -> Failed:
    login = isinstance(error, LoginRefused)
    return Failed(
        "/problems/mail-login-refused" if login else "/problems/mail-server-unavailable",
        "Mail login refused" if login else "Mail server unavailable",
        f"There was no session with the mail server, and this attempt sent nothing: {error}.",
        retryable=True,
        after_seconds=_choose_delay(context),
        data=_make_data(recipients, verdicts),
    )


def _has_attempts_left(context: HandlerContext) -> bool:
    return context.attempt < context.max_attempts


def _choose_delay(context: HandlerContext) -> float:
    """Return the seconds until the next attempt: 30 after the first one, then twice as long each time, up to an hour."""
    return min(LONGEST_RETRY_SECONDS, FIRST_RETRY_SECONDS * 2.0 ** min(context.attempt - 1, 30))


def _list_with(status: str, verdicts: Mapping[str, Verdict]) -> list[str]:
    return [address for address, verdict in verdicts.items() if verdict.status == status]


def _make_data(
    recipients: Mapping[str, Mailbox], verdicts: Mapping[str, Verdict]
) -> dict[str, list[dict[str, str | int | None]]]:
    """Return `{"recipients": [{address, status, code, reply}]}`, in the order in which the message names them."""
    known = ((address, verdicts[address]) for address in recipients if address in verdicts)
    return {
        "recipients": [
            {"address": address, "status": verdict.status, "code": verdict.code, "reply": verdict.reply}
            for address, verdict in known
        ]
    }
