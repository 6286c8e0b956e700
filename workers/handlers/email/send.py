"""Sends one message, and knows at every moment what is known of it.

The order of things is the promise. An intent is committed before anything of the message is said to the server, and a
receipt for each recipient after its answer; so an attempt that finds an intent without a receipt knows that an earlier
one ended in between, says so, and sends nothing. What ends a session before the message itself has gone is no such
case: nothing was sent, and that is written down too.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
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
from workers.handlers.email._deliveries import CUT_OFF, UNKNOWN, Verdict, read_deliveries, write_intent, write_receipts
from workers.handlers.email._message import AttachedFile, Message, compose_message
from workers.outcomes import Failed, Stopped

FIRST_RETRY_SECONDS = 30.0
LONGEST_RETRY_SECONDS = 3600.0
LONGEST_ANSWER_SECONDS = 600.0
"""What a server may take to answer a message (RFC 5321 section 4.5.3.2.6)."""
FRESH_SECONDS = 1.0
SPARE_SECONDS = 5.0
"""Kept of the attempt's time for writing the receipts."""

NO_SMTPUTF8 = Verdict("rejected", None, "The mail server takes no addresses with characters beyond ASCII (SMTPUTF8).")


def handle(params: SendParams, context: HandlerContext) -> SendResult:
    """Send through the server of the settings. Raises `ConfigurationError` when they name none that can be."""
    return deliver(params, context, SmtpServer(parse_smtp_url(context.settings.smtp_url.get_secret_value())))


def deliver(params: SendParams, context: HandlerContext, server: MailServer) -> SendResult:
    """Send to those who do not have the message yet, and say what became of it for everyone."""
    recipients = {mailbox.address: mailbox for mailbox in params.list_recipients()}
    known = read_deliveries(context)
    verdicts = dict(known.verdicts)
    if known.unknown:
        verdicts |= dict.fromkeys(known.unknown, UNKNOWN)
        raise _fail_as_unknown(recipients, verdicts)
    waiting = known.list_waiting(recipients)
    if not waiting:
        return _conclude(context, recipients, verdicts)

    message = _compose(params, context)
    try:
        with server.connect(context.check) as session:
            context.check()
            # From before the intent is written: the claim held then, and the process may be stopped right after.
            since = time.monotonic()
            intent_id = write_intent(context, message.message_id, waiting)
            kill_points.reach("after-intent")
            sending = [recipients[address] for address in waiting]
            verdicts |= _send(session, message, sending, context, intent_id, since)
    except MailServerUnavailable as trouble:
        context.log.warning("mail_server_unavailable", reason=trouble.reason, code=trouble.code)
        for address in waiting:
            verdicts.setdefault(
                address, Verdict("deferred", trouble.code, f"No session with the mail server: {trouble}.")
            )
        if _attempts_are_left(context) or not _list_with("accepted", verdicts):
            raise _fail_as_unavailable(context, trouble, recipients, verdicts) from trouble
    return _conclude(context, recipients, verdicts)


def _compose(params: SendParams, context: HandlerContext) -> Message:
    """Gather what the message is made of. Raises `Failed` when its attachments are too large."""
    attached = []
    for attachment in params.attachments:
        file = context.input_file(attachment.file_id)
        attached.append(AttachedFile(file, attachment.name or file.name))
    total_bytes = sum(item.file.size for item in attached)
    if total_bytes > MAX_ATTACHMENTS_BYTES:
        raise Failed(
            "/problems/message-too-large",
            "Message too large",
            f"The attachments have {total_bytes} bytes together; {MAX_ATTACHMENTS_BYTES} is the most.",
        )
    try:
        default_sender = parse_mailbox(context.settings.mail_from)
    except BadMailbox as error:
        raise ConfigurationError(f"TASKMILL_MAIL_FROM is no mailbox: {error}") from None
    return compose_message(params, attached, task_id=context.task_id, default_sender=default_sender)


def _send(
    session: MailSession,
    message: Message,
    waiting: Sequence[Mailbox],
    context: HandlerContext,
    intent_id: UUID,
    since: float,
) -> dict[str, Verdict]:
    """Send the message and write each receipt. Raises `LoginRefused` when the server wanted a login after all.

    Receipts are written whatever happens, also when the attempt is told to end, save that it lost its claim.
    """
    verdicts: dict[str, Verdict] = {}
    trouble: MailServerUnavailable | None = None

    def fill_in(verdict: Verdict) -> None:
        for mailbox in waiting:
            verdicts.setdefault(mailbox.address, verdict)

    try:
        _converse(session, message, waiting, context, intent_id, since, verdicts)
    except MailServerUnavailable as error:
        trouble = error
        fill_in(CUT_OFF if error.code is None else Verdict("deferred", error.code, f"No message was sent: {error}."))
    except AnswerMissing as error:
        context.log.warning("mail_answer_missing", reason=str(error))
    except Stopped:
        fill_in(Verdict("deferred", None, "The attempt was ended before the message was sent."))
        write_receipts(context, intent_id, verdicts)
        raise
    write_receipts(context, intent_id, verdicts)
    kill_points.reach("after-receipt")
    counts = {status: len(_list_with(status, verdicts)) for status in ("accepted", "rejected", "deferred", "unknown")}
    context.log.info("email_tried", **counts)
    if isinstance(trouble, LoginRefused):
        raise trouble
    return verdicts


def _converse(
    session: MailSession,
    message: Message,
    waiting: Sequence[Mailbox],
    context: HandlerContext,
    intent_id: UUID,
    since: float,
    verdicts: dict[str, Verdict],
) -> None:
    """Go through the dialogue up to the answer, and put each verdict into `verdicts` as soon as it is known."""
    if not session.offers_smtputf8:
        verdicts |= {m.address: NO_SMTPUTF8 for m in waiting if m.needs_smtputf8 or message.needs_smtputf8}
    remaining = [mailbox for mailbox in waiting if mailbox.address not in verdicts]
    if not remaining:
        return
    reply = session.start_message(
        message.sender.wire_address,
        size_bytes=len(message.content),
        smtputf8=message.needs_smtputf8 or any(mailbox.needs_smtputf8 for mailbox in remaining),
    )
    if not reply.accepts:
        verdicts |= {mailbox.address: Verdict.from_reply(reply) for mailbox in remaining}
        return

    taken: list[str] = []
    for mailbox in remaining:
        reply = session.add_recipient(mailbox.wire_address)
        if reply.accepts:
            taken.append(mailbox.address)
        else:
            # A 421 announces that the server hangs up. The next command finds out whether it does: some say it of one
            # recipient and go on.
            verdicts[mailbox.address] = Verdict.from_reply(reply)
    if not taken:
        return
    # Should the process die while the message is on its way, then only of these it is unknown.
    write_receipts(context, intent_id, verdicts)

    refusal = session.open_content()
    if refusal is None:
        _make_sure_of_the_claim(context, since)
        seconds = min(LONGEST_ANSWER_SECONDS, max(SPARE_SECONDS, context.remaining_seconds() - SPARE_SECONDS))
        # Whatever happens from here on, it is unknown until the answer says otherwise.
        verdicts |= dict.fromkeys(taken, UNKNOWN)
        answer = session.send_content(message.content, timeout_seconds=seconds)
        kill_points.reach("after-smtp-accept")
    else:
        answer = refusal
    verdicts |= dict.fromkeys(taken, Verdict.from_reply(answer))


def _make_sure_of_the_claim(context: HandlerContext, since: float) -> None:
    """Ask whether the attempt should end, and the database too when the intent is not quite recent.

    A process that was stopped may come back after its task was taken from it, failed as unknown, and sent anew.
    """
    context.check()
    if time.monotonic() - since > FRESH_SECONDS:
        with context.fenced_transaction():
            pass


def _conclude(
    context: HandlerContext, recipients: Mapping[str, Mailbox], verdicts: Mapping[str, Verdict]
) -> SendResult:
    """Answer with the result, or raise `Failed`, once every recipient has a verdict."""
    if _list_with("unknown", verdicts):
        raise _fail_as_unknown(recipients, verdicts)
    if _list_with("deferred", verdicts) and _attempts_are_left(context):
        raise Failed(
            "/problems/mail-deferred",
            "Mail deferred",
            "The mail server asks to try again later for some recipients.",
            retryable=True,
            after_seconds=_choose_delay(context),
            data=_make_data(recipients, verdicts),
        )
    # There is no later attempt: what is deferred stays unsent, under the code that it was deferred with.
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
        "The message was on its way when the attempt or its connection ended; whether the server took it cannot be "
        "known. A retry sends it to those recipients of whom nothing is known, who may then have it twice.",
        data=_make_data(recipients, verdicts),
    )


def _fail_as_unavailable(
    context: HandlerContext,
    trouble: MailServerUnavailable,
    recipients: Mapping[str, Mailbox],
    verdicts: Mapping[str, Verdict],
) -> Failed:
    login = isinstance(trouble, LoginRefused)
    return Failed(
        "/problems/mail-login-refused" if login else "/problems/mail-server-unavailable",
        "Mail login refused" if login else "Mail server unavailable",
        f"There was no session with the mail server, and this attempt sent nothing: {trouble}.",
        retryable=True,
        after_seconds=_choose_delay(context),
        data=_make_data(recipients, verdicts),
    )


def _attempts_are_left(context: HandlerContext) -> bool:
    return context.attempt < context.max_attempts


def _choose_delay(context: HandlerContext) -> float:
    """Give the wait in seconds: half a minute after the first attempt, twice that after the second, and so on."""
    return min(LONGEST_RETRY_SECONDS, FIRST_RETRY_SECONDS * 2.0 ** min(context.attempt - 1, 30))


def _list_with(status: str, verdicts: Mapping[str, Verdict]) -> list[str]:
    return [address for address, verdict in verdicts.items() if verdict.status == status]


def _make_data(
    recipients: Mapping[str, Mailbox], verdicts: Mapping[str, Verdict]
) -> dict[str, list[dict[str, str | int | None]]]:
    """Give `{"recipients": [{address, status, code, reply}]}`, in the order in which the message names them."""
    known = ((address, verdicts[address]) for address in recipients if address in verdicts)
    return {
        "recipients": [
            {"address": address, "status": verdict.status, "code": verdict.code, "reply": verdict.reply}
            for address, verdict in known
        ]
    }
