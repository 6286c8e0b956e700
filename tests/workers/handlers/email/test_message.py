from __future__ import annotations

import re
from datetime import UTC, datetime
from email import message_from_bytes, policy
from email.header import decode_header, make_header
from email.message import EmailMessage
from email.policy import Policy
from email.utils import getaddresses
from pathlib import Path
from typing import Any, Protocol, cast
from uuid import UUID, uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shared.contracts.email._mailboxes import Mailbox, find_forbidden_character, parse_mailbox
from shared.contracts.email.send import SendParams
from workers.handler_context import InputFile
from workers.handlers.email._attachments import AttachedFile
from workers.handlers.email._header_lines import write_literal_field, write_mailboxes_field, write_text_field
from workers.handlers.email._message import Message, compose_message

TASK_ID = UUID("0199c0de-0000-7000-8000-000000000001")

one_line = st.text(st.characters(exclude_categories=["Cs"]), max_size=150).filter(
    lambda text: find_forbidden_character(text) is None
)


def compose(attached: list[AttachedFile] | None = None, **fields: object) -> Message:
    params = SendParams.model_validate({"to": ["zoe@example.com"], "text": "Hi\n", **fields})
    default_sender = parse_mailbox("Taskmill <taskmill@localhost>")
    return compose_message(
        params,
        attached or [],
        task_id=TASK_ID,
        default_sender=default_sender,
        now=datetime(2026, 11, 24, 8, 30, tzinfo=UTC),
    )


def parse(content: bytes) -> EmailMessage:
    return cast(EmailMessage, message_from_bytes(content, policy=policy.default))


def list_attachments(content: bytes) -> list[EmailMessage]:
    return [cast(EmailMessage, part) for part in parse(content).iter_attachments()]


def find_lines(content: bytes, name: str) -> list[bytes]:
    """Return the lines of a field of the header."""
    header = content.partition(b"\r\n\r\n")[0] + b"\r\n"
    (field,) = re.findall(rb"(?m)^%s:.*\r\n(?:[ \t].*\r\n)*" % name.encode(), header)
    return bytes(field).split(b"\r\n")[:-1]


def test_a_plain_message_is_written_plainly() -> None:
    message = compose(**{"from": "Zoë <zoe@example.com>"}, subject="Hello", headers={"X-Ref": "7"})

    assert message.content == (
        b"Date: Tue, 24 Nov 2026 08:30:00 +0000\r\n"
        b"From: =?utf-8?b?Wm/Dqw==?= <zoe@example.com>\r\n"
        b"To: zoe@example.com\r\n"
        b"Subject: Hello\r\n"
        b"Message-ID: <0199c0de-0000-7000-8000-000000000001@example.com>\r\n"
        b"X-Ref: 7\r\n"
        b'Content-Type: text/plain; charset="utf-8"\r\n'
        b"Content-Transfer-Encoding: 7bit\r\n"
        b"MIME-Version: 1.0\r\n"
        b"\r\n"
        b"Hi\r\n"
    )


def test_text_and_html_are_alternatives_with_the_richer_one_last() -> None:
    message = parse(compose(text="Grüße", html="<p>Grüße</p>").content)

    assert message.get_content_type() == "multipart/alternative"
    plain, rich = message.iter_parts()
    assert (plain.get_content_type(), rich.get_content_type()) == ("text/plain", "text/html")
    assert "Grüße" in cast(EmailMessage, rich).get_content()


def test_html_alone_is_not_a_multipart() -> None:
    assert parse(compose(text=None, html="<p>Hi</p>").content).get_content_type() == "text/html"


def test_every_line_is_short_and_ascii_and_ends_with_crlf() -> None:
    content = compose(
        to=["Zoë Müller <zoe@müller.de>"] * 3, subject="ü" * 998, text="é" * 5000 + "\r\nx\ry\nz", html="x" * 5000
    ).content

    assert content.isascii()
    assert max(map(len, content.split(b"\r\n"))) <= 998
    assert not re.search(rb"\r(?!\n)|(?<!\r)\n", content)


def test_a_message_with_only_hidden_recipients_names_none() -> None:
    message = parse(compose(to=[], bcc=["zoe@example.com"]).content)

    assert message["To"] == "undisclosed-recipients:;"
    assert "Bcc" not in message


URL = "<https://example.com/unsubscribe/dXNlcjo0Mg==?list=7>"
LONG_URL = "<https://example.com/" + "x" * 900 + "=?utf-8?q?>"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("List-Unsubscribe", URL),
        ("List-Unsubscribe", f"{LONG_URL}, <mailto:unsubscribe@example.com?subject=7>, {URL}"),
        ("List-Unsubscribe-Post", "List-Unsubscribe=One-Click"),
        ("List-Id", '"The =?list?=" <list.example.com>'),
        ("In-Reply-To", "<=?utf-8?q?a?=@example.com>"),
        ("References", " ".join(f"<{number}.{'x' * 40}@example.com>" for number in range(60))),
        ("Disposition-Notification-To", '"Roe,  Jane" <jane@example.com>'),
        ("Return-Receipt-To", "jane@example.com"),
        ("Auto-Submitted", "auto-generated"),
        ("Feedback-ID", "campaign:customer:type:=?sender?="),
        ("X-Link", f"https://example.com/?a==?utf-8?b?R3LDvMOfZQ==?= \t {LONG_URL}"),
        ("Comments", "=?utf-8?b?R3LDvMOfZQ==?="),
        ("X-Empty", ""),
    ],
)
def test_an_ascii_field_is_sent_as_given_and_folded_at_white_space(name: str, value: str) -> None:
    lines = find_lines(compose(headers={name: value}).content, name)

    assert b"".join(lines).decode() == f"{name}: {value}".rstrip()
    assert all(len(line) <= 78 or len(line.split()) <= (2 if number == 0 else 1) for number, line in enumerate(lines))
    assert max(map(len, lines)) <= 998


def test_letters_beyond_ascii_in_free_text_are_encoded_words() -> None:
    content = compose(headers={"X-Note": "Größe  und " * 80, "Organization": "Zoë & Söhne"}).content

    message = parse(content)
    assert content.isascii()
    assert message["X-Note"] == ("Größe  und " * 80).strip()
    assert message["Organization"] == "Zoë & Söhne"


def test_addresses_are_never_encoded_words_and_display_names_are() -> None:
    content = compose(
        **{"from": '"=?x?=" <"a=?b?= c"@example.com>'}, to=["Zoë <=?zoe?=@example.com>"], reply_to="Zoë <zoe@müller.de>"
    ).content

    assert find_lines(content, "From") == [b'From: =?utf-8?b?PT94Pz0=?= <"a=?b?= c"@example.com>']
    assert find_lines(content, "To") == [b"To: =?utf-8?b?Wm/Dqw==?= <=?zoe?=@example.com>"]
    assert find_lines(content, "Reply-To") == [b"Reply-To: =?utf-8?b?Wm/Dqw==?= <zoe@xn--mller-kva.de>"]


def test_an_address_beyond_ascii_needs_smtputf8_and_a_domain_does_not() -> None:
    assert not compose(to=["zoe@müller.de"]).needs_smtputf8
    assert not compose(bcc=["zoë@example.com"]).needs_smtputf8
    assert compose(to=["zoë@example.com"]).needs_smtputf8
    assert "Zoë <zoë@example.com>".encode() in compose(cc=["Zoë <zoë@example.com>"]).content


BINARY = b"\x00\r\n.\r\n\xff"


class AttachFile(Protocol):
    """The fixture `attach`."""

    def __call__(
        self,
        content: bytes = BINARY,
        *,
        name: str = "file",
        stored_as: str = "application/pdf",
        media_type: str | None = None,
    ) -> AttachedFile:
        """Return a file to attach, whose stored type is `stored_as`, and which is sent as `media_type`."""


@pytest.fixture
def attach(tmp_path: Path) -> AttachFile:
    def attach_one(
        content: bytes = BINARY,
        *,
        name: str = "file",
        stored_as: str = "application/pdf",
        media_type: str | None = None,
    ) -> AttachedFile:
        path = tmp_path / uuid4().hex
        path.write_bytes(content)
        return AttachedFile(InputFile(uuid4(), path, "file", stored_as, len(content), ""), name, media_type)

    return attach_one


@pytest.mark.parametrize(
    ("stored_as", "media_type", "sent_as"),
    [
        ("application/pdf", None, "application/pdf"),
        ("text/csv; header=present", None, 'text/csv; header="present"'),
        ("multipart/mixed", None, "application/octet-stream"),
        ("nonsense", None, "application/octet-stream"),
        ("application/pdf", "application/vnd.x+json; v=1", 'application/vnd.x+json; v="1"'),
    ],
)
def test_an_attachment_has_the_type_asked_for_or_the_stored_one(
    attach: AttachFile, stored_as: str, media_type: str | None, sent_as: str
) -> None:
    (part,) = list_attachments(compose([attach(stored_as=stored_as, media_type=media_type)]).content)

    assert part["Content-Type"] == sent_as
    assert part["Content-Transfer-Encoding"] == "base64"
    assert part.get_payload(decode=True) == BINARY


@pytest.mark.parametrize(
    ("content", "stored_as", "media_type", "charset"),
    [
        ("Müller;Größe\r\n".encode(), "text/csv", None, "utf-8"),
        (b"\xef\xbb\xbfa;b\r\n", "text/csv", None, "utf-8"),
        (b"a;b\r\n", "text/csv", None, "utf-8"),
        (b"", "text/plain", None, "utf-8"),
        ("Müller".encode("utf-16"), "text/plain", None, "utf-16"),
        ("Müller;Größe".encode("cp1252"), "text/csv", None, "windows-1252"),
        ("Привет, это обычный текст на русском языке".encode("cp1251"), "text/plain", None, "windows-1251"),
        ("Müller".encode("cp1252"), "text/csv", "text/csv; charset=iso-8859-1", "iso-8859-1"),
        ("Müller".encode(), "text/html", None, "utf-8"),
        (b'<meta charset="iso-8859-2">M\xfcller', "text/html", None, None),
        (BINARY, "text/plain", None, None),
        ("Größe".encode(), "application/json", None, None),
    ],
)
def test_an_attached_text_has_its_charset(
    attach: AttachFile, content: bytes, stored_as: str, media_type: str | None, charset: str | None
) -> None:
    (part,) = list_attachments(compose([attach(content, stored_as=stored_as, media_type=media_type)]).content)

    assert part["Content-Type"].params.get("charset") == charset
    assert part.get_payload(decode=True) == content


def test_an_invitation_arrives_intact_with_its_method(attach: AttachFile) -> None:
    event = "BEGIN:VCALENDAR\r\nMETHOD:REQUEST\r\nSUMMARY:Größe\r\n  folded\r\nEND:VCALENDAR\r\n".encode()
    attached = attach(event, name="invite.ics", stored_as="text/plain", media_type="text/calendar; method=REQUEST")

    (part,) = list_attachments(compose([attached]).content)

    assert part["Content-Type"] == 'text/calendar; method="REQUEST"; charset="utf-8"'
    assert part.get_filename() == "invite.ics"
    assert part.get_payload(decode=True) == event
    assert part.get_content().encode() == event


@pytest.mark.parametrize(
    ("content", "encoding"),
    [
        (b"Subject: Hello\r\n\r\nHi\r\n", "7bit"),
        (b"Subject: Hello\n\nHi\n--x\n.", "7bit"),
        ("Subject: Hello\r\nX:  a   b\r\n\r\nGrüße\r\n".encode(), "8bit"),
    ],
)
def test_an_attached_message_is_sent_unencoded(attach: AttachFile, content: bytes, encoding: str) -> None:
    attached = attach(content, name="Grüße.eml", stored_as="text/plain", media_type="message/rfc822")

    message = compose([attached, attach()], text="Grüße")

    expected = re.sub(rb"\r?\n", b"\r\n", content)
    first, second = list_attachments(message.content)
    assert first["Content-Type"] == "message/rfc822"
    assert (first["Content-Transfer-Encoding"], first.get_filename()) == (encoding, "Grüße.eml")
    assert first.get_content()["Subject"] == "Hello"
    assert b"\r\n\r\n" + expected + b"\r\n--" in message.content
    assert parse(message.content)["Content-Transfer-Encoding"] == encoding
    assert message.needs_8bitmime == (encoding == "8bit")
    assert second.get_payload(decode=True) == BINARY


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(one_line.filter(str.strip))
def test_the_name_of_an_attachment_arrives_unchanged(attach: AttachFile, name: str) -> None:
    (part,) = list_attachments(compose([attach(name=name)]).content)

    assert part.get_payload(decode=True) == BINARY
    assert (part.get_filename() or "").strip() == name.strip()


@pytest.mark.parametrize(
    "name",
    [
        "=?utf-8?q?x?=.txt",
        "=?utf-8?B?5paw5bu6LnR4dA==?=",
        "=?us-ascii?Q?a?= b.txt",
        "x=?utf-8?q?a?=",
        "=?",
        "x" * 140 + ".txt",
        "ü" * 120 + ".txt",
        'a"b\\c;d=e%22.txt',
    ],
)
@pytest.mark.parametrize("parser", [policy.default, policy.compat32], ids=["default", "compat32"])
def test_a_name_that_looks_encoded_arrives_as_it_is(attach: AttachFile, name: str, parser: Policy[Any]) -> None:
    content = compose([attach(name=name)]).content

    (part,) = [part for part in message_from_bytes(content, policy=parser).walk() if part.get_filename()]

    assert part.get_filename() == name
    assert all(len(line) <= 998 for line in content.split(b"\r\n"))


@pytest.mark.parametrize("name", ["Subject", "X", "X-A-Rather-Long-Name-Of-A-Field", "X-" + "A" * 48])
@pytest.mark.parametrize("text", ["ü" * 200, "plain and ünusual " * 12, "東京" * 40, "😀" * 30, "a" * 60 + "ü"])
def test_a_line_with_an_encoded_word_has_at_most_76_characters(name: str, text: str) -> None:
    lines = write_text_field(name, text.strip())
    addressed = write_mailboxes_field(name, [Mailbox(text.strip(), "a", "example.com", "example.com")] * 3)

    assert max(map(len, [*lines.split(b"\r\n"), *addressed.split(b"\r\n")])) <= 76
    assert parse(lines + b"\r\n")[name] == text.strip()


@settings(deadline=None)
@given(one_line)
def test_free_text_arrives_unchanged_and_adds_no_field(text: str) -> None:
    text = text.strip()

    lines = write_text_field("Subject", text)

    assert lines.isascii()
    message = parse(lines + b"\r\n")
    assert message.keys() == ["Subject"]
    assert message["Subject"] == text


@settings(deadline=None)
@given(st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=900))
def test_a_literal_field_is_unfolded_to_its_value(value: str) -> None:
    value = value.strip()

    lines = write_literal_field("X-A", value)

    assert lines.replace(b"\r\n", b"").decode() == f"X-A: {value}".rstrip()
    assert parse(lines + b"\r\n").keys() == ["X-A"]


@settings(deadline=None)
@given(st.lists(st.tuples(one_line, st.sampled_from(["a@example.com", '"a b"@example.com'])), min_size=1, max_size=6))
def test_display_names_arrive_unchanged_and_add_no_address(names: list[tuple[str, str]]) -> None:
    mailboxes = [Mailbox(name.strip(), *address.split("@"), address.split("@")[1]) for name, address in names]

    lines = write_mailboxes_field("To", mailboxes)

    assert lines.isascii()
    # The newer parser keeps a space between two encoded words of a folded phrase, against RFC 2047 section 6.2.
    message = message_from_bytes(lines + b"\r\n", policy=policy.compat32)
    assert message.keys() == ["To"]
    unfolded = message["To"].replace("\r\n", "")
    assert [(str(make_header(decode_header(name))), address) for name, address in getaddresses([unfolded])] == [
        (mailbox.display_name, mailbox.address) for mailbox in mailboxes
    ]
