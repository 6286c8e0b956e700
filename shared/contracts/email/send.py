"""`email.send`: one message to its recipients, each of them at most once for each time that a person asked."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError, field_validator, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

from shared.contracts.email._mailboxes import (
    MAX_MAILBOX_LENGTH,
    BadMailbox,
    Mailbox,
    find_forbidden_character,
    parse_mailbox,
)
from shared.contracts.kind import FileId, Kind, Params, Result, RetryPolicy

MAX_ATTACHMENTS = 20
MAX_ATTACHMENTS_BYTES = 25 << 20
"""Of all attachments of a message together, as they are stored."""
MAX_BODY_LENGTH = 1 << 20
MAX_HEADER_LINE_LENGTH = 998
"""RFC 5322 section 2.1.1."""
MAX_HEADERS = 50
MAX_LISTED = 50

# RFC 5322 section 3.6.8, `ftext`: printable ASCII but the colon.
_FIELD_NAME = re.compile(r"[!-9;-~]{1,76}")
# What the message itself, the transport, or a signature says: a second voice on it deceives the reader or the servers.
_STRUCTURAL_HEADERS = frozenset(
    {
        "apparently-to",
        "authentication-results",
        "bcc",
        "cc",
        "date",
        "delivered-to",
        "dkim-signature",
        "domainkey-signature",
        "envelope-to",
        "from",
        "message-id",
        "received",
        "received-spf",
        "reply-to",
        "return-path",
        "sender",
        "subject",
        "to",
    }
)
_STRUCTURAL_PREFIXES = ("arc-", "content-", "mime-", "resent-")


def _normalise_mailbox(value: str) -> str:
    try:
        return str(parse_mailbox(value))
    except BadMailbox as error:
        raise PydanticCustomError("mailbox_invalid", "{reason}", {"reason": str(error)}) from None


def _wrap_in_list(value: object) -> object:
    """Take one mailbox for a list of one. What passes here is no JSON any more, of which strictness takes no list."""
    if isinstance(value, str):
        return (value,)
    return tuple(value) if isinstance(value, list) else value


MailboxText = Annotated[
    str,
    Field(max_length=MAX_MAILBOX_LENGTH, examples=["Zoë Müller <zoe@example.com>"]),
    AfterValidator(_normalise_mailbox),
]
"""A mailbox in the one form that `Mailbox` gives it."""


class Attachment(Params):
    """One stored file that goes with the message."""

    file_id: FileId
    name: Annotated[
        str | None,
        Field(min_length=1, max_length=200, description="The name it bears; the stored file's if not given."),
    ] = None

    @field_validator("name")
    @classmethod
    def _hold_a_plain_name(cls, value: str | None) -> str | None:
        if value is not None:
            _refuse_forbidden_characters(value)
            if "/" in value or "\\" in value or value in {".", ".."}:
                raise PydanticCustomError("name_is_a_path", "The name of an attachment may not be a path.")
        return value


class SendParams(Params):
    """The message. Whoever is in `to`, `cc` or `bcc` more than once still gets it once."""

    sender: Annotated[
        MailboxText | None,
        Field(alias="from", description="Who it is from; `TASKMILL_MAIL_FROM` if not given."),
    ] = None
    to: Annotated[tuple[MailboxText, ...], Field(max_length=MAX_LISTED, description="Mailboxes.")] = ()
    cc: Annotated[tuple[MailboxText, ...], Field(max_length=MAX_LISTED, description="Mailboxes.")] = ()
    bcc: Annotated[
        tuple[MailboxText, ...],
        Field(max_length=MAX_LISTED, description="Mailboxes that no reader of the message sees."),
    ] = ()
    reply_to: Annotated[
        tuple[MailboxText, ...],
        Field(max_length=MAX_LISTED, description="Where answers go: one mailbox, or several."),
        BeforeValidator(_wrap_in_list, json_schema_input_type=str | list[str]),
    ] = ()
    subject: Annotated[str, Field(max_length=998, description="One line of text.")] = ""
    text: Annotated[str | None, Field(max_length=MAX_BODY_LENGTH, description="The message as plain text.")] = None
    html: Annotated[str | None, Field(max_length=MAX_BODY_LENGTH, description="The message as HTML.")] = None
    attachments: Annotated[
        tuple[Attachment, ...],
        Field(max_length=MAX_ATTACHMENTS, description="Stored files, of 25 MiB together at the most."),
    ] = ()
    headers: Annotated[
        dict[str, str],
        Field(
            default_factory=dict,
            max_length=MAX_HEADERS,
            description="Further header fields, such as `List-Unsubscribe`.",
        ),
    ]

    @field_validator("subject")
    @classmethod
    def _hold_one_line(cls, value: str) -> str:
        _refuse_forbidden_characters(value)
        return value.strip()

    @field_validator("text", "html")
    @classmethod
    def _hold_no_null(cls, value: str | None) -> str | None:
        if value is not None and "\0" in value:
            raise PydanticCustomError("character_refused", "The character U+0000 is not allowed here.")
        return value

    @field_validator("headers")
    @classmethod
    def _hold_harmless_headers(cls, value: dict[str, str]) -> dict[str, str]:
        complaints = list(_list_complaints(value))
        if complaints:
            raise ValidationError.from_exception_data("headers", complaints)
        return {name: text.strip() for name, text in value.items()}

    @model_validator(mode="after")
    def _be_a_message(self) -> SendParams:
        complaints: list[InitErrorDetails] = []
        if not (self.to or self.cc or self.bcc):
            error = PydanticCustomError("recipient_missing", "Name at least one recipient in `to`, `cc` or `bcc`.")
            complaints.append(InitErrorDetails(type=error, loc=("to",), input=self.to))
        if self.text is None and self.html is None:
            error = PydanticCustomError("body_missing", "Give at least one of `text` and `html`.")
            complaints.append(InitErrorDetails(type=error, loc=("text",), input=None))
        if complaints:
            raise ValidationError.from_exception_data("message", complaints)
        return self

    def list_recipients(self) -> list[Mailbox]:
        """Give each recipient once, in the order named."""
        mailboxes = [parse_mailbox(text) for text in (*self.to, *self.cc, *self.bcc)]
        return list({mailbox.address: mailbox for mailbox in mailboxes}.values())


def _refuse_forbidden_characters(value: str) -> None:
    if (character := find_forbidden_character(value)) is not None:
        raise PydanticCustomError(
            "character_refused", "The character {character} is not allowed here.", {"character": character}
        )


def _list_complaints(headers: dict[str, str]) -> Iterator[InitErrorDetails]:
    seen: set[str] = set()
    for name, value in headers.items():
        key = name.lower()
        if not _FIELD_NAME.fullmatch(name):
            error = PydanticCustomError("header_name_invalid", "This is no name of a header field (RFC 5322, `ftext`).")
        elif key in _STRUCTURAL_HEADERS or key.startswith(_STRUCTURAL_PREFIXES):
            error = PydanticCustomError("header_refused", "This header field is not yours to set here.")
        elif key in seen:
            error = PydanticCustomError("header_doubled", "This header field is given twice.")
        elif (character := find_forbidden_character(value, allowed="\t")) is not None:
            error = PydanticCustomError(
                "character_refused", "The character {character} is not allowed here.", {"character": character}
            )
        elif len(name) + len(value.encode()) + 2 > MAX_HEADER_LINE_LENGTH:
            error = PydanticCustomError("header_too_long", "A header field has at most 998 bytes.")
        else:
            seen.add(key)
            continue
        yield InitErrorDetails(type=error, loc=(name,), input=value)


class RecipientOutcome(Result):
    """What became of the message for one recipient."""

    address: str
    status: Literal["accepted", "rejected"]
    code: Annotated[int | None, Field(description="The server's reply code; null where the server was not asked.")]
    reply: Annotated[str, Field(description="The server's reply, shortened.")]


class SendResult(Result):
    """What the mail server answered, for each recipient once. At least one was accepted."""

    recipients: list[RecipientOutcome]


KIND = Kind(
    params=SendParams,
    result=SendResult,
    title="Send an email",
    description=(
        "Sends one message through the mail server. It succeeds when at least one recipient was accepted and none is "
        "deferred any more: a 4xx reply is tried again for those recipients alone, a 5xx is final. When it fails, "
        "`error.data.recipients` tells of each as the result does; `status` may also be `deferred` or `unknown` there."
    ),
    queue="email",
    max_attempts=8,
    timeout_seconds=300,
    retry=RetryPolicy(first_seconds=30.0),
    errors={
        "mail-rejected": "The mail server accepted the message for none of its recipients.",
        "mail-deferred": "The mail server asks to try again later for some recipients; the platform does.",
        "mail-server-unavailable": "The mail server was not reached, or hung up; this attempt sent nothing.",
        "mail-login-refused": "The mail server did not take the platform's credentials; this attempt sent nothing.",
        "message-too-large": "The attachments are larger together than a message may be.",
        "delivery-unknown": (
            "The attempt or its connection ended while the message was on its way, so that nobody can know whether "
            "the server took it. A retry sends it to the recipients whose status is `unknown` or `deferred`, and the "
            "former may then have it twice."
        ),
    },
)
