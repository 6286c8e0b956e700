from __future__ import annotations

import time
from contextlib import AbstractContextManager
from email import message_from_bytes, policy
from email.message import EmailMessage
from typing import cast
from uuid import UUID

import pytest
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import OperationalError

from shared.contracts.email.send import SendParams, SendResult
from shared.limits import HeldLimits, Limits
from shared.queries import emails
from shared.settings import Settings
from tests.workers.handlers.email.conftest import MakeContext, ScriptedHandler, ScriptedSmtp
from workers.adapters.memory_context import MemoryContext
from workers.adapters.memory_smtp import MemorySmtp
from workers.adapters.smtp import AnswerMissing, LoginRefused, MailServer, MailServerUnavailable, Reply
from workers.handlers.email import _deliveries
from workers.handlers.email._sending import deliver
from workers.handlers.email.send import handle
from workers.outcomes import Cancelled, ClaimLost, Failed, Requeued

A, B, C = "a@example.com", "b@example.com", "c@example.com"


def make_params(*to: str, **fields: object) -> SendParams:
    return SendParams.model_validate({"to": to or (A,), "subject": "Hello", "text": "Hi\n", **fields})


def list_statuses(outcome: SendResult | Failed) -> dict[str, tuple[str, int | None]]:
    """Return the status and the code of each address, from a result or from an error's data."""
    if isinstance(outcome, SendResult):
        return {row.address: (row.status, row.code) for row in outcome.recipients}
    return {row["address"]: (row["status"], row["code"]) for row in (outcome.data or {})["recipients"]}


def parse_message(content: bytes | str | None) -> EmailMessage:
    assert isinstance(content, bytes)
    return cast(EmailMessage, message_from_bytes(content, policy=policy.default))


def set_replies(smtp: ScriptedSmtp, **replies: object) -> None:
    """Set fields of the handler of the server, and reset the others to their defaults."""
    healthy = ScriptedHandler()
    for name in ("sender", "recipients", "content", "hang_up_on", "stall_on"):
        setattr(smtp.handler, name, replies.get(name, getattr(healthy, name)))


def count_open_intents(engine: Engine, task_id: UUID) -> int:
    """Return the number of recipients whose outcome is unknown."""
    statement = text(
        "SELECT count(*) FROM email_intents i, unnest(i.recipients) r WHERE i.task_id = :task AND i.given_up_at IS NULL"
        " AND NOT EXISTS (SELECT FROM email_receipts e WHERE e.intent_id = i.id AND e.recipient = r)"
    )
    with engine.connect() as connection:
        return int(connection.execute(statement, {"task": task_id}).scalar_one())


def retry_as_a_person(engine: Engine, task_id: UUID) -> None:
    with engine.begin() as connection:
        connection.execute(emails.mark_unknown_as_retriable([task_id]))


def lose_claim(context: MemoryContext, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the fence refuse every later write of the attempt."""

    def refuse() -> None:
        raise ClaimLost

    monkeypatch.setattr(context, "fenced_transaction", refuse)


def stop_attempt() -> None:
    raise Requeued


def fail(params: SendParams, context: MemoryContext, server: MailServer) -> Failed:
    """Deliver the message, and return the failure in which that ends."""
    with pytest.raises(Failed) as caught:
        deliver(params, context, server)
    return caught.value


def test_each_recipient_receives_the_message_once(smtp: ScriptedSmtp, make_context: MakeContext) -> None:
    params = make_params("Zoë Müller <zoe@example.com>", A, cc=[A, B], bcc=[C, "zoe@example.com"])
    context = make_context()

    result = deliver(params, context, smtp.client())

    assert list_statuses(result) == {"zoe@example.com": ("accepted", 250)} | dict.fromkeys([A, B, C], ("accepted", 250))
    (kept,) = smtp.handler.kept
    assert kept.mail_from == "taskmill@localhost"
    assert kept.rcpt_tos == ["zoe@example.com", A, B, C]
    message = parse_message(kept.content)
    assert message["To"].addresses[0].display_name == "Zoë Müller"
    assert message["Message-ID"] == f"<{context.task_id}@localhost>"
    assert message["Bcc"] is None
    assert C.encode() not in kept.content


def test_the_handler_sends_through_the_server_in_the_settings(smtp: ScriptedSmtp, make_context: MakeContext) -> None:
    context = make_context()
    context.settings = Settings(smtp_url=f"smtp://127.0.0.1:{smtp.port}", mail_from="Ops <ops@example.org>")

    handle(make_params(A), context)

    assert smtp.handler.kept[0].mail_from == "ops@example.org"


def test_an_attachment_is_sent_with_its_name_and_type(smtp: ScriptedSmtp, make_context: MakeContext) -> None:
    context = make_context()
    report = context.add_input(b"a;b\r\n1;2\r\n", "bericht.csv", "text/csv")
    picture = context.add_input(b"\x89PNG\r\n.\r\n\x00\xff", "x.png", "image/png")
    attachments = [{"file_id": report}, {"file_id": picture, "name": "Größe ✓.png"}]

    deliver(make_params(A, html="<p>Hi</p>", attachments=attachments), context, smtp.client())

    message = parse_message(smtp.handler.kept[0].content)
    first, second = message.iter_attachments()
    assert (first.get_filename(), first.get_content_type()) == ("bericht.csv", "text/csv")
    assert first.get_payload(decode=True) == b"a;b\r\n1;2\r\n"
    assert (second.get_filename(), second.get_content_type()) == ("Größe ✓.png", "image/png")
    assert second.get_content() == b"\x89PNG\r\n.\r\n\x00\xff"


def test_a_line_with_only_a_dot_does_not_end_the_message(smtp: ScriptedSmtp, make_context: MakeContext) -> None:
    deliver(make_params(A, text="one\n.\n..two\n.three"), make_context(), smtp.client())

    message = parse_message(smtp.handler.kept[0].content)
    assert message.get_content().replace("\r\n", "\n") == "one\n.\n..two\n.three\n"


def test_a_5xx_is_final_and_a_4xx_is_retried_for_its_recipient(
    smtp: ScriptedSmtp, make_context: MakeContext, engine: Engine
) -> None:
    params = make_params(A, B, C)
    smtp.handler.recipients = {B: "550 No such user", C: "451 Greylisted"}
    first = make_context()

    deferred = fail(params, first, smtp.client())
    smtp.handler.recipients = {}
    result = deliver(params, make_context(2, first.task_id), smtp.client())

    assert deferred.type == "/problems/mail-deferred"
    assert (deferred.retryable, deferred.after_seconds) == (True, 30)
    assert list_statuses(deferred) == {A: ("accepted", 250), B: ("rejected", 550), C: ("deferred", 451)}
    assert list_statuses(result) == {A: ("accepted", 250), B: ("rejected", 550), C: ("accepted", 250)}
    assert [kept.rcpt_tos for kept in smtp.handler.kept] == [[A], [C]]
    assert count_open_intents(engine, first.task_id) == 0


def test_a_552_to_a_recipient_is_retried_as_a_452_is(smtp: ScriptedSmtp, make_context: MakeContext) -> None:
    params = make_params(A, B, C)
    set_replies(smtp, recipients=dict.fromkeys([B, C], "552 5.5.3 Too many recipients"))
    first = make_context()

    deferred = fail(params, first, smtp.client())
    set_replies(smtp)
    result = deliver(params, make_context(2, first.task_id), smtp.client())

    assert deferred.type == "/problems/mail-deferred"
    assert list_statuses(deferred) == {A: ("accepted", 250), B: ("deferred", 552), C: ("deferred", 552)}
    assert [kept.rcpt_tos for kept in smtp.handler.kept] == [[A], [B, C]]
    assert list_statuses(result) == dict.fromkeys([A, B, C], ("accepted", 250))


@pytest.mark.parametrize(("attempt", "seconds"), [(1, 30), (2, 60), (5, 480), (20, 3600)])
def test_each_delay_is_twice_the_last_up_to_an_hour(make_context: MakeContext, attempt: int, seconds: float) -> None:
    failed = fail(make_params(A), make_context(attempt, max_attempts=25), MemorySmtp(sender=Reply(451, "Later")))

    assert failed.after_seconds == seconds


@pytest.mark.parametrize(
    "script",
    [
        {"recipients": {A: "550 No", B: "550 No"}},
        {"content": "554 Spam"},
        {"content": "552 Too large"},
        {"sender": "553 Not you"},
        {"sender": "552 Full"},
    ],
    ids=["every-recipient", "the-message", "the-message-552", "the-sender", "the-sender-552"],
)
def test_a_message_without_an_accepted_recipient_is_rejected(
    smtp: ScriptedSmtp, make_context: MakeContext, script: dict[str, object]
) -> None:
    set_replies(smtp, **script)

    failed = fail(make_params(A, B), make_context(), smtp.client())

    assert (failed.type, failed.retryable) == ("/problems/mail-rejected", False)
    assert {status for status, _ in list_statuses(failed).values()} == {"rejected"}
    assert smtp.handler.kept == []


@pytest.mark.parametrize(
    "script",
    [{"recipients": {A: "421 Busy", B: "421 Busy"}}, {"content": "452 Full"}, {"sender": "421 Busy"}],
    ids=["every-recipient", "the-message", "the-sender"],
)
def test_a_deferred_message_is_sent_by_the_next_attempt(
    smtp: ScriptedSmtp, make_context: MakeContext, script: dict[str, object]
) -> None:
    set_replies(smtp, **script)
    first = make_context()
    params = make_params(A, B)

    failed = fail(params, first, smtp.client())
    set_replies(smtp)
    result = deliver(params, make_context(2, first.task_id), smtp.client())

    assert (failed.type, failed.retryable) == ("/problems/mail-deferred", True)
    assert list_statuses(result) == {A: ("accepted", 250), B: ("accepted", 250)}
    assert [kept.rcpt_tos for kept in smtp.handler.kept] == [[A, B]]


def test_a_421_for_one_recipient_does_not_affect_the_others(smtp: ScriptedSmtp, make_context: MakeContext) -> None:
    smtp.handler.recipients = {A: "421 Too much mail for this one"}

    failed = fail(make_params(A, B), make_context(), smtp.client())

    assert list_statuses(failed) == {A: ("deferred", 421), B: ("accepted", 250)}


def test_a_recipient_that_ended_the_session_is_left_out_once(make_context: MakeContext, engine: Engine) -> None:
    closing = {A: Reply(421, "Bye"), B: MailServerUnavailable("the server closed the connection")}
    first = make_context()

    fail(make_params(A, B), first, MemorySmtp(recipients=closing))
    server = MemorySmtp()
    failed = fail(make_params(A, B), make_context(2, first.task_id), server)
    result = deliver(make_params(A, B), make_context(3, first.task_id), server)

    assert list_statuses(failed) == {A: ("deferred", 421), B: ("accepted", 250)}
    assert list_statuses(result) == {A: ("accepted", 250), B: ("accepted", 250)}
    assert [kept.recipients for kept in server.kept] == [(B,), (A,)]


def test_a_paused_process_checks_its_claim_before_it_sends(
    make_context: MakeContext, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workers.handlers.email._sending.FRESH_INTENT_SECONDS", 0.0)
    stale = make_context()
    server = MemorySmtp(before_recipient=lambda: lose_claim(stale, monkeypatch))

    with pytest.raises(ClaimLost):
        deliver(make_params(A), stale, server)

    assert server.kept == []
    assert count_open_intents(engine, stale.task_id) == 1


def test_the_last_attempt_rejects_deferred_recipients(smtp: ScriptedSmtp, make_context: MakeContext) -> None:
    smtp.handler.recipients = {B: "451 Later"}

    result = deliver(make_params(A, B), make_context(8), smtp.client())
    failed = fail(make_params(B), make_context(8), smtp.client())

    assert list_statuses(result) == {A: ("accepted", 250), B: ("rejected", 451)}
    assert failed.type == "/problems/mail-rejected"
    assert list_statuses(failed) == {B: ("rejected", 451)}


def test_a_connection_closed_after_the_message_is_unknown(
    smtp: ScriptedSmtp, make_context: MakeContext, engine: Engine
) -> None:
    params = make_params(A, B, C)
    smtp.handler.recipients = {B: "550 No such user"}
    smtp.handler.hang_up_on = "CONTENT"
    first = make_context()

    at_once = fail(params, first, smtp.client())
    smtp.handler.hang_up_on = ""
    smtp.handler.recipients = {}
    by_itself = fail(params, make_context(2, first.task_id), smtp.client())
    greetings = smtp.handler.greetings
    retry_as_a_person(engine, first.task_id)
    result = deliver(params, make_context(3, first.task_id), smtp.client())

    for failed in (at_once, by_itself):
        assert (failed.type, failed.retryable) == ("/problems/delivery-unknown", False)
        assert list_statuses(failed) == {A: ("unknown", None), B: ("rejected", 550), C: ("unknown", None)}
    assert greetings == 1
    assert [kept.rcpt_tos for kept in smtp.handler.kept] == [[A, C], [A, C]]
    assert list_statuses(result) == {A: ("accepted", 250), B: ("rejected", 550), C: ("accepted", 250)}


def test_silence_after_the_message_ends_with_the_attempts_time(smtp: ScriptedSmtp, make_context: MakeContext) -> None:
    smtp.handler.stall_on = "CONTENT"
    started = time.monotonic()

    failed = fail(make_params(A), make_context(timeout_seconds=6.0), smtp.client())

    assert failed.type == "/problems/delivery-unknown"
    assert time.monotonic() - started < 20


def test_silence_before_the_message_is_bounded_and_retried(
    smtp: ScriptedSmtp, make_context: MakeContext, engine: Engine
) -> None:
    smtp.handler.stall_on = "RCPT"
    context = make_context()

    failed = fail(make_params(A), context, smtp.client(reply_timeout_seconds=3.0))

    assert (failed.type, failed.retryable) == ("/problems/mail-deferred", True)
    assert list_statuses(failed) == {A: ("deferred", None)}
    assert count_open_intents(engine, context.task_id) == 0


def test_nothing_is_unknown_when_a_session_ends_before_the_message(
    smtp: ScriptedSmtp, make_context: MakeContext, engine: Engine
) -> None:
    smtp.handler.hang_up_on = "RCPT"
    first = make_context()

    failed = fail(make_params(A, B), first, smtp.client())
    smtp.handler.hang_up_on = ""
    result = deliver(make_params(A, B), make_context(2, first.task_id), smtp.client())

    assert failed.type == "/problems/mail-deferred"
    assert list_statuses(result) == {A: ("accepted", 250), B: ("accepted", 250)}


def test_an_unreachable_server_is_retried_without_an_intent(make_context: MakeContext, engine: Engine) -> None:
    context = make_context()
    context.settings = Settings(smtp_url="smtp://127.0.0.1:1")

    with pytest.raises(Failed) as caught:
        handle(make_params(A), context)

    assert caught.value.type == "/problems/mail-server-unavailable"
    assert (caught.value.retryable, caught.value.after_seconds) == (True, 30)
    with engine.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM email_intents")).scalar_one() == 0


def test_the_reply_that_refused_the_session_is_in_the_error(make_context: MakeContext) -> None:
    refused = MailServerUnavailable("the server refused the session", Reply(421, "4.3.2 try later"))

    failed = fail(make_params(A), make_context(), MemorySmtp(connection=refused))

    assert (failed.type, failed.retryable) == ("/problems/mail-server-unavailable", True)
    assert "421 4.3.2 try later" in failed.detail
    assert list_statuses(failed) == {A: ("deferred", 421)}


@pytest.mark.parametrize("where", ["connection", "sender"])
def test_a_refused_login_is_retryable(make_context: MakeContext, engine: Engine, where: str) -> None:
    server = MemorySmtp(**{where: LoginRefused("the server refused the credentials", Reply(535, "No"))})  # type: ignore[arg-type]
    first = make_context()

    failed = fail(make_params(A), first, server)

    assert (failed.type, failed.retryable) == ("/problems/mail-login-refused", True)
    assert count_open_intents(engine, first.task_id) == 0
    assert list_statuses(deliver(make_params(A), make_context(2, first.task_id), MemorySmtp())) == {
        A: ("accepted", 250)
    }


def test_earlier_acceptances_count_when_the_server_stays_unreachable(make_context: MakeContext) -> None:
    first = make_context()
    fail(make_params(A, B), first, MemorySmtp(recipients={B: Reply(451, "Later")}))

    gone = MemorySmtp(connection=MailServerUnavailable("the connection was refused"))
    result = deliver(make_params(A, B), make_context(8, first.task_id), gone)

    assert list_statuses(result) == {A: ("accepted", 250), B: ("rejected", 451)}


class Crash(BaseException):
    """Raised where a real process would be killed."""


def crash() -> None:
    raise Crash


def test_nothing_is_sent_after_a_crash_between_intent_and_receipt(make_context: MakeContext, engine: Engine) -> None:
    server = MemorySmtp(before_answer=crash)
    first = make_context()
    with pytest.raises(Crash):
        deliver(make_params(A), first, server)

    healthy = MemorySmtp()
    failed = fail(make_params(A), make_context(2, first.task_id), healthy)

    assert failed.type == "/problems/delivery-unknown"
    assert list_statuses(failed) == {A: ("unknown", None)}
    assert healthy.connections == 0
    retry_as_a_person(engine, first.task_id)
    deliver(make_params(A), make_context(3, first.task_id), healthy)
    assert len(healthy.kept) == 1


def test_an_attempt_after_the_receipt_succeeds_without_sending(make_context: MakeContext) -> None:
    first = make_context()
    deliver(make_params(A), first, MemorySmtp())

    untouched = MemorySmtp()
    result = deliver(make_params(A), make_context(2, first.task_id), untouched)

    assert list_statuses(result) == {A: ("accepted", 250)}
    assert untouched.connections == 0


def test_refused_recipients_are_recorded_before_the_message_is_sent(make_context: MakeContext) -> None:
    first = make_context()
    with pytest.raises(Crash):
        deliver(make_params(A, B), first, MemorySmtp(recipients={B: Reply(550, "No")}, before_answer=crash))

    failed = fail(make_params(A, B), make_context(2, first.task_id), MemorySmtp())

    assert list_statuses(failed) == {A: ("unknown", None), B: ("rejected", 550)}


def test_a_person_may_retry_when_all_recipients_were_rejected(make_context: MakeContext, engine: Engine) -> None:
    first = make_context()
    fail(make_params(A, B), first, MemorySmtp(recipients={A: Reply(550, "No"), B: Reply(550, "No")}))

    retry_as_a_person(engine, first.task_id)
    result = deliver(make_params(A, B), make_context(9, first.task_id, 16), MemorySmtp())

    assert list_statuses(result) == {A: ("accepted", 250), B: ("accepted", 250)}


def test_nothing_is_unknown_when_an_attempt_stops_before_the_message(make_context: MakeContext, engine: Engine) -> None:
    first = make_context()

    with pytest.raises(Requeued):
        deliver(make_params(A), first, MemorySmtp(before_recipient=stop_attempt))

    assert count_open_intents(engine, first.task_id) == 0
    assert list_statuses(deliver(make_params(A), make_context(1, first.task_id), MemorySmtp())) == {
        A: ("accepted", 250)
    }


def test_a_cancelled_attempt_sends_nothing(make_context: MakeContext) -> None:
    context = make_context()
    context.stop_with = Cancelled()
    server = MemorySmtp()

    with pytest.raises(Cancelled):
        deliver(make_params(A), context, server)

    assert server.kept == []


def test_a_reply_is_recorded_when_the_task_was_cancelled_meanwhile(make_context: MakeContext) -> None:
    context = make_context()

    def cancel() -> None:
        context.stop_with = Cancelled()

    result = deliver(make_params(A), context, MemorySmtp(before_answer=cancel))

    assert list_statuses(result) == {A: ("accepted", 250)}


def test_an_attempt_interrupted_during_the_message_is_unknown(make_context: MakeContext, engine: Engine) -> None:
    context = make_context()

    with pytest.raises(Requeued):
        deliver(make_params(A), context, MemorySmtp(before_answer=stop_attempt))

    assert count_open_intents(engine, context.task_id) == 1


def test_an_attempt_that_lost_its_claim_records_nothing(
    make_context: MakeContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    stale = make_context()

    with pytest.raises(ClaimLost):
        deliver(make_params(A), stale, MemorySmtp(before_answer=lambda: lose_claim(stale, monkeypatch)))

    assert fail(make_params(A), make_context(2, stale.task_id), MemorySmtp()).type == "/problems/delivery-unknown"


def test_a_receipt_is_written_after_the_database_restarts(
    make_context: MakeContext, monkeypatch: pytest.MonkeyPatch, engine: Engine
) -> None:
    monkeypatch.setattr(_deliveries, "WRITE_RETRY_SECONDS", 0.01)
    context = make_context()
    healthy = context.fenced_transaction
    failures = iter([OperationalError("", {}, Exception("down")), OperationalError("", {}, Exception("down"))])

    def restart() -> AbstractContextManager[Connection]:
        if (error := next(failures, None)) is not None:
            raise error
        return healthy()

    def break_database() -> None:
        monkeypatch.setattr(context, "fenced_transaction", restart)

    result = deliver(make_params(A), context, MemorySmtp(before_answer=break_database))

    assert list_statuses(result) == {A: ("accepted", 250)}
    assert count_open_intents(engine, context.task_id) == 0


def test_addresses_beyond_ascii_are_sent_with_smtputf8(smtp: ScriptedSmtp, make_context: MakeContext) -> None:
    params = make_params("Δοκιμή <δοκιμή@παράδειγμα.ελ>", "zoe@müller.de")

    result = deliver(params, make_context(), smtp.client())

    assert list_statuses(result) == {
        "δοκιμή@παράδειγμα.ελ": ("accepted", 250),
        "zoe@müller.de": ("accepted", 250),
    }
    (kept,) = smtp.handler.kept
    assert "SMTPUTF8" in kept.mail_options
    assert "δοκιμή@" in kept.content.decode()


def test_an_international_domain_needs_no_smtputf8(plain_smtp: ScriptedSmtp, make_context: MakeContext) -> None:
    result = deliver(make_params("Zoë <zoe@müller.de>"), make_context(), plain_smtp.client())

    assert list_statuses(result) == {"zoe@müller.de": ("accepted", 250)}
    assert plain_smtp.handler.kept[0].rcpt_tos == ["zoe@xn--mller-kva.de"]
    assert plain_smtp.handler.kept[0].content.isascii()


def test_a_server_without_smtputf8_receives_what_it_supports(
    plain_smtp: ScriptedSmtp, make_context: MakeContext
) -> None:
    hidden = deliver(make_params(A, bcc=["zoë@example.com"]), make_context(), plain_smtp.client())
    shown = fail(make_params(A, "zoë@example.com"), make_context(), plain_smtp.client())

    assert list_statuses(hidden) == {A: ("accepted", 250), "zoë@example.com": ("rejected", None)}
    assert shown.type == "/problems/mail-rejected"
    assert list_statuses(shown) == {A: ("rejected", None), "zoë@example.com": ("rejected", None)}


def test_attachments_that_are_too_large_together_are_refused(
    make_context: MakeContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workers.handlers.email._sending.MAX_ATTACHMENTS_BYTES", 10)
    context = make_context()
    attachments = [{"file_id": context.add_input(b"123456")}, {"file_id": context.add_input(b"123456")}]
    server = MemorySmtp()

    failed = fail(make_params(A, attachments=attachments), context, server)

    assert (failed.type, failed.retryable) == ("/problems/message-too-large", False)
    assert server.connections == 0


def test_a_reply_that_is_not_smtp_is_unknown(make_context: MakeContext) -> None:
    failed = fail(make_params(A), make_context(), MemorySmtp(content=AnswerMissing("the answer cannot be read")))

    assert failed.type == "/problems/delivery-unknown"


def test_an_attached_message_beyond_ascii_needs_8bitmime(make_context: MakeContext) -> None:
    for offers_8bitmime, status in ((False, "rejected"), (True, "accepted")):
        context = make_context(8)
        file_id = context.add_input("Subject: Hello\r\n\r\nGrüße\r\n".encode(), "note.eml")
        params = make_params(A, B, attachments=[{"file_id": file_id, "media_type": "message/rfc822"}])
        server = MemorySmtp(offers_8bitmime=offers_8bitmime)

        try:
            outcome: SendResult | Failed = deliver(params, context, server)
        except Failed as failed:
            outcome = failed

        assert {status for status, _ in list_statuses(outcome).values()} == {status}
        assert len(server.kept) == offers_8bitmime


def test_an_attached_message_that_mail_cannot_carry_is_refused(make_context: MakeContext) -> None:
    context = make_context()
    file_id = context.add_input(b"Subject: Hello\r\n\r\n" + b"x" * 999, "note.eml")
    server = MemorySmtp()

    failed = fail(make_params(A, attachments=[{"file_id": file_id, "media_type": "message/rfc822"}]), context, server)

    assert (failed.type, failed.retryable) == ("/problems/unsendable-attachment", False)
    assert server.connections == 0


def test_a_sender_that_is_not_allowed_any_more_sends_nothing(make_context: MakeContext, smtp: ScriptedSmtp) -> None:
    set_replies(smtp)
    smtp.handler.asked_for.clear()
    context = make_context()
    context.limits = HeldLimits(caller=Limits(senders=["@example.org"]))

    with pytest.raises(Failed, match="quota-senders"):
        deliver(make_params(**{"from": "Eve <eve@example.com>"}), context, smtp.client())

    assert smtp.handler.asked_for == []
