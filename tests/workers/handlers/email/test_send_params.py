from __future__ import annotations

import json
from typing import Any
from uuid import UUID

import pytest
from pydantic import ValidationError

from shared.contracts.email.send import KIND, SendParams
from shared.contracts.kind import list_referred_files

FILE_ID = "0199c0de-0000-7000-8000-000000000001"
OPTIONS = (
    "priority run_at delay ttl max_attempts timeout keep_for tags metadata webhook unique_for".split()  # noqa: SIM905
)


def read(**fields: Any) -> SendParams:
    return SendParams.model_validate_json(json.dumps({"to": ["zoe@example.com"], "text": "Hi", **fields}), strict=True)


def list_complaints(**fields: Any) -> list[tuple[str, str]]:
    """Give (JSON Pointer, code) of each complaint."""
    with pytest.raises(ValidationError) as caught:
        read(**fields)
    return [("/".join(["", *map(str, error["loc"])]), error["type"]) for error in caught.value.errors()]


def test_params_are_stored_and_read_back_as_the_same() -> None:
    params = read(
        **{"from": '"Müller, Zoë" <zoe@müller.de>'},
        cc=["Max  <max@example.com>"],
        bcc=["<ida@example.com>"],
        reply_to="Help <help@example.com>",
        html="<p>Hi",
        attachments=[{"file_id": FILE_ID}],
        headers={"List-Unsubscribe": "<https://example.com/u>"},
    )

    stored = params.model_dump_json(by_alias=True)

    assert SendParams.model_validate_json(stored) == params
    assert json.loads(stored)["from"] == '"Müller, Zoë" <zoe@müller.de>'
    assert json.loads(stored)["reply_to"] == ["Help <help@example.com>"]


def test_the_sender_is_called_from_and_nothing_else() -> None:
    assert list_complaints(sender="zoe@example.com") == [("/sender", "extra_forbidden")]


def test_the_files_that_a_message_refers_to_are_found_with_their_pointers() -> None:
    params = read(attachments=[{"file_id": FILE_ID, "name": "a.pdf"}])

    assert [(f.pointer, f.file_id) for f in list_referred_files(params)] == [("/attachments/0/file_id", UUID(FILE_ID))]


def test_no_param_bears_an_options_name() -> None:
    assert not {*KIND.params.model_json_schema()["properties"]} & {*OPTIONS}


@pytest.mark.parametrize(
    ("fields", "complaint"),
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
        ({"headers": {"X-A": "x" * 995}}, ("/headers/X-A", "header_too_long")),
        ({"headers": {"X-A\r\nBcc": "x"}}, ("/headers/X-A\r\nBcc", "header_name_invalid")),
        ({"headers": {"X-A: x": "x"}}, ("/headers/X-A: x", "header_name_invalid")),
        ({"headers": {"X A": "x"}}, ("/headers/X A", "header_name_invalid")),
        ({"headers": {"X-Ä": "x"}}, ("/headers/X-Ä", "header_name_invalid")),
        ({"headers": {"": "x"}}, ("/headers/", "header_name_invalid")),
        ({"headers": {"X-A": "x", "x-a": "y"}}, ("/headers/x-a", "header_doubled")),
        ({"headers": {f"X-{n}": "x" for n in range(51)}}, ("/headers", "too_long")),
        ({"colour": "red"}, ("/colour", "extra_forbidden")),
    ],
)
def test_bad_input_is_refused_at_its_place(fields: dict[str, Any], complaint: tuple[str, str]) -> None:
    assert list_complaints(**fields) == [complaint]


@pytest.mark.parametrize(
    "name",
    "Bcc bcc BCC From To Cc Sender Reply-To Subject Date Message-ID MIME-Version Content-Type "  # noqa: SIM905
    "Content-Transfer-Encoding Received Return-Path DKIM-Signature Resent-To Resent-Bcc Apparently-To "
    "Authentication-Results ARC-Seal Delivered-To".split(),
)
def test_structural_headers_are_refused(name: str) -> None:
    assert list_complaints(headers={name: "x@example.com"}) == [(f"/headers/{name}", "header_refused")]


def test_harmless_headers_are_taken() -> None:
    headers = {"List-Unsubscribe": "<https://example.com/u>", "In-Reply-To": "<a@b>", "X-Über": "no"}
    del headers["X-Über"]

    assert read(headers=headers).headers == headers


def test_every_recipient_is_listed_once() -> None:
    params = read(to=["Zoë <zoe@example.com>", "zoe@EXAMPLE.com"], cc=["max@example.com"], bcc=["Z <zoe@example.com>"])

    assert [mailbox.address for mailbox in params.list_recipients()] == ["zoe@example.com", "max@example.com"]
