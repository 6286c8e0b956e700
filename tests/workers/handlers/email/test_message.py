from __future__ import annotations

import re
from datetime import UTC, datetime
from email import message_from_bytes, policy
from email.header import decode_header, make_header
from email.message import EmailMessage
from email.utils import getaddresses
from pathlib import Path
from typing import Any, cast
from uuid import UUID, uuid4

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.contracts.email._mailboxes import Mailbox, find_forbidden_character, parse_mailbox
from shared.contracts.email.send import SendParams
from workers.handler_context import InputFile
from workers.handlers.email._header_lines import write_mailboxes_field, write_text_field
from workers.handlers.email._message import AttachedFile, Message, compose_message

TASK_ID = UUID("0199c0de-0000-7000-8000-000000000001")

one_line = st.text(st.characters(exclude_categories=["Cs"]), max_size=150).filter(
    lambda text: find_forbidden_character(text) is None
)


def compose(attached: list[AttachedFile] | None = None, **fields: Any) -> Message:
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


def test_a_plain_message_is_what_one_would_write_by_hand() -> None:
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


def test_html_alone_is_no_multipart() -> None:
    assert parse(compose(text=None, html="<p>Hi</p>").content).get_content_type() == "text/html"


def test_every_line_is_short_ascii_and_ended_by_crlf() -> None:
    content = compose(
        to=["Zoë Müller <zoe@müller.de>"] * 3, subject="ü" * 998, text="é" * 5000 + "\r\nx\ry\nz", html="x" * 5000
    ).content

    assert content.isascii()
    assert max(map(len, content.split(b"\r\n"))) <= 998
    assert not re.search(rb"\r(?!\n)|(?<!\r)\n", content)


def test_only_hidden_recipients_show_as_undisclosed() -> None:
    message = parse(compose(to=[], bcc=["zoe@example.com"]).content)

    assert message["To"] == "undisclosed-recipients:;"
    assert "Bcc" not in message


def test_a_long_url_in_a_header_is_left_whole() -> None:
    url = "<https://example.com/" + "x" * 300 + ">"

    assert f"List-Unsubscribe: {url}\r\n".encode() in compose(headers={"List-Unsubscribe": url}).content


def test_an_address_beyond_ascii_needs_smtputf8_and_a_domain_does_not() -> None:
    assert not compose(to=["zoe@müller.de"]).needs_smtputf8
    assert not compose(bcc=["zoë@example.com"]).needs_smtputf8
    assert compose(to=["zoë@example.com"]).needs_smtputf8
    assert "Zoë <zoë@example.com>".encode() in compose(cc=["Zoë <zoë@example.com>"]).content


@pytest.mark.parametrize(
    ("media_type", "sent_as"),
    [
        ("application/pdf", "application/pdf"),
        ("text/csv; charset=utf-8", "text/csv"),
        ("message/rfc822", "application/octet-stream"),
        ("multipart/mixed", "application/octet-stream"),
        ("nonsense", "application/octet-stream"),
    ],
)
def test_attachments_keep_their_type_where_mail_allows_it(tmp_path: Path, media_type: str, sent_as: str) -> None:
    (part,) = parse(compose([attach(tmp_path, media_type=media_type)]).content).iter_attachments()

    assert part.get_content_type() == sent_as
    assert part.get_payload(decode=True) == b"\x00\r\n.\r\n\xff"


def attach(folder: Path, *, name: str = "file", media_type: str = "application/pdf") -> AttachedFile:
    path = folder / uuid4().hex
    path.write_bytes(b"\x00\r\n.\r\n\xff")
    return AttachedFile(InputFile(uuid4(), path, "file", media_type, 6, ""), name)


@settings(deadline=None, max_examples=60)
@given(one_line.filter(str.strip))
def test_the_name_of_an_attachment_arrives_as_it_was(tmp_path_factory: pytest.TempPathFactory, name: str) -> None:
    content = compose([attach(tmp_path_factory.getbasetemp(), name=name)]).content

    (part,) = parse(content).iter_attachments()
    assert part.get_payload(decode=True) == b"\x00\r\n.\r\n\xff"
    assert (part.get_filename() or "").strip() == name.strip()


@settings(deadline=None)
@given(one_line)
def test_free_text_in_a_field_arrives_as_it_was_and_adds_no_field(text: str) -> None:
    text = text.strip()

    lines = write_text_field("Subject", text)

    assert lines.isascii()
    message = parse(lines + b"\r\n")
    assert message.keys() == ["Subject"]
    assert message["Subject"] == text


@settings(deadline=None)
@given(st.lists(st.tuples(one_line, st.sampled_from(["a@example.com", '"a b"@example.com'])), min_size=1, max_size=6))
def test_display_names_arrive_as_they_were_and_add_no_address(names: list[tuple[str, str]]) -> None:
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
