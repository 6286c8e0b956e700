from __future__ import annotations

import json
from uuid import UUID

import pytest
from pydantic import ValidationError

from shared.contracts.email.send import KIND, SendParams
from shared.contracts.kind import list_referred_files

FILE_ID = "0199c0de-0000-7000-8000-000000000001"
OPTIONS = (
    "priority run_at delay ttl max_attempts timeout keep_for tags metadata webhook unique_for".split()  # noqa: SIM905
)


def parse(**fields: object) -> SendParams:
    return SendParams.model_validate_json(json.dumps({"to": ["zoe@example.com"], "text": "Hi", **fields}), strict=True)


def list_errors(**fields: object) -> list[tuple[str, str]]:
    """Return (JSON Pointer, code) of each error."""
    with pytest.raises(ValidationError) as caught:
        parse(**fields)
    return [("/".join(["", *map(str, error["loc"])]), error["type"]) for error in caught.value.errors()]


def test_stored_params_are_equal_when_they_are_read() -> None:
    params = parse(
        **{"from": '"Müller, Zoë" <zoe@müller.de>'},
        cc=["Max  <max@example.com>"],
        bcc=["<ida@example.com>"],
        reply_to="Help <help@example.com>",
        html="<p>Hi",
        attachments=[{"file_id": FILE_ID, "media_type": "Text/Calendar;METHOD=REQUEST"}],
        headers={"List-Unsubscribe": "<https://example.com/u>"},
    )

    stored = params.model_dump_json(by_alias=True)

    assert SendParams.model_validate_json(stored) == params
    assert json.loads(stored)["from"] == '"Müller, Zoë" <zoe@müller.de>'
    assert json.loads(stored)["reply_to"] == ["Help <help@example.com>"]
    assert json.loads(stored)["attachments"][0]["media_type"] == "text/calendar; method=REQUEST"


def test_the_sender_is_named_from_only() -> None:
    assert list_errors(sender="zoe@example.com") == [("/sender", "extra_forbidden")]


def test_the_files_that_a_message_refers_to_are_found_with_their_pointers() -> None:
    params = parse(attachments=[{"file_id": FILE_ID, "name": "a.pdf"}])

    assert [(f.pointer, f.file_id) for f in list_referred_files(params)] == [("/attachments/0/file_id", UUID(FILE_ID))]


def test_no_param_has_the_name_of_an_option() -> None:
    assert not {*KIND.params.model_json_schema()["properties"]} & {*OPTIONS}


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"to": []}, ("/to", "recipient_missing")),
        ({"text": None}, ("/text", "body_missing")),
        ({"to": "zoe@example.com"}, ("/to", "tuple_type")),
        ({"to": ["zoe@example.com", "zoe"]}, ("/to/1", "mailbox_invalid")),
        ({"from": "zoe@example.com\r\nBcc: x@example.com"}, ("/from", "mailbox_invalid")),
        ({"cc": ["x@example.com"] * 51}, ("/cc", "too_long")),
        ({"reply_to": ["x"]}, ("/reply_to/0", "mailbox_invalid")),
        ({"subject": "a\r\nBcc: x@example.com"}, ("/subject", "character_refused")),
        ({"subject": "a\nb"}, ("/subject", "character_refused")),
        ({"subject": "a\rb"}, ("/subject", "character_refused")),
        ({"subject": "a\0b"}, ("/subject", "character_refused")),
        ({"subject": "a\u2028b"}, ("/subject", "character_refused")),
        ({"subject": "x" * 999}, ("/subject", "string_too_long")),
        ({"text": "a\0b"}, ("/text", "character_refused")),
        ({"html": "x" * (1024 * 1024 + 1)}, ("/html", "string_too_long")),
        ({"attachments": [{"file_id": FILE_ID, "name": "../etc/passwd"}]}, ("/attachments/0/name", "name_is_a_path")),
        ({"attachments": [{"file_id": FILE_ID, "name": "a\r\nX: y"}]}, ("/attachments/0/name", "character_refused")),
        ({"attachments": [{"file_id": FILE_ID}] * 21}, ("/attachments", "too_long")),
        ({"attachments": [{"name": "a"}]}, ("/attachments/0/file_id", "missing")),
        ({"headers": {"X-A": "a\r\nBcc: x@example.com"}}, ("/headers/X-A", "character_refused")),
        ({"headers": {"X-A": "a\nb"}}, ("/headers/X-A", "character_refused")),
        ({"headers": {"X-A": "a\0b"}}, ("/headers/X-A", "character_refused")),
        ({"headers": {"X-A": "a\x0bb"}}, ("/headers/X-A", "character_refused")),
        ({"headers": {"X-A": "x" * 994}}, ("/headers/X-A", "header_too_long")),
        ({"headers": {"X-A": "x " + "x" * 998}}, ("/headers/X-A", "header_too_long")),
        ({"headers": {"X-A": "x" + " " * 998 + "x"}}, ("/headers/X-A", "header_too_long")),
        ({"headers": {"X-A": "x " * 4097}}, ("/headers/X-A", "header_too_long")),
        ({"headers": {"Organization": "ü " * 4097}}, ("/headers/Organization", "header_too_long")),
        ({"headers": {"X-A\r\nBcc": "x"}}, ("/headers/X-A\r\nBcc", "header_name_invalid")),
        ({"headers": {"X-A: x": "x"}}, ("/headers/X-A: x", "header_name_invalid")),
        ({"headers": {"X A": "x"}}, ("/headers/X A", "header_name_invalid")),
        ({"headers": {"X-Ä": "x"}}, ("/headers/X-Ä", "header_name_invalid")),
        ({"headers": {"": "x"}}, ("/headers/", "header_name_invalid")),
        ({"headers": {"X-A": "x", "x-a": "y"}}, ("/headers/x-a", "header_doubled")),
        ({"headers": {f"X-{n}": "x" for n in range(51)}}, ("/headers", "too_long")),
        ({"headers": {"List-Id": "Grüße <a.example.com>"}}, ("/headers/List-Id", "header_not_ascii")),
        *(
            (
                {"attachments": [{"file_id": FILE_ID, "media_type": text}]},
                ("/attachments/0/media_type", "media_type_invalid"),
            )
            for text in (
                "text",
                "text/",
                "text/calendar;",
                "text/calendar; method",
                "text/calendar; method=",
                "text/calendar; a=b; A=c",
                "text/calendar, text/plain",
                "text/calendar; method=REQUEST\r\nBcc: x@example.com",
                'text/calendar; name="Grüße"',
                "multipart/mixed; boundary=x",
                "message/partial; id=x",
                "message/external-body; access-type=x",
            )
        ),
        ({"colour": "red"}, ("/colour", "extra_forbidden")),
    ],
)
def test_bad_input_is_refused_at_its_pointer(fields: dict[str, object], error: tuple[str, str]) -> None:
    assert list_errors(**fields) == [error]


@pytest.mark.parametrize(
    "name",
    "Bcc bcc BCC From To Cc Sender Reply-To Subject Date Message-ID MIME-Version Content-Type "  # noqa: SIM905
    "Content-Transfer-Encoding Received Return-Path DKIM-Signature Resent-To Resent-Bcc Apparently-To "
    "Authentication-Results ARC-Seal Delivered-To".split(),
)
def test_structural_headers_are_refused(name: str) -> None:
    assert list_errors(headers={name: "x@example.com"}) == [(f"/headers/{name}", "header_refused")]


@pytest.mark.parametrize(
    "name",
    "List-Unsubscribe List-Unsubscribe-Post List-Id List-Help List-Archive In-Reply-To References Precedence "  # noqa: SIM905
    "Disposition-Notification-To Return-Receipt-To Errors-To Auto-Submitted Feedback-ID Importance Some-Field".split(),
)
def test_a_structured_field_takes_ascii_only(name: str) -> None:
    assert parse(headers={name: " a =?b?= \tc "}).headers == {name: "a =?b?= \tc"}
    assert list_errors(headers={name: "<https://example.com/ü>"}) == [(f"/headers/{name}", "header_not_ascii")]


@pytest.mark.parametrize("name", ["X-Note", "x-note", "Comments", "Keywords", "Organization", "Thread-Topic"])
def test_a_field_of_free_text_takes_any_letters(name: str) -> None:
    text = "Grüße " * 300

    assert parse(headers={name: text}).headers == {name: text.strip()}


def test_the_words_of_a_field_may_fill_a_line_each() -> None:
    headers = {"References": "x" * 986 + (" " + "x" * 997) * 7}

    assert parse(headers=headers).headers == headers


def test_every_recipient_is_listed_once() -> None:
    params = parse(to=["Zoë <zoe@example.com>", "zoe@EXAMPLE.com"], cc=["max@example.com"], bcc=["Z <zoe@example.com>"])

    assert [mailbox.address for mailbox in params.list_recipients()] == ["zoe@example.com", "max@example.com"]
