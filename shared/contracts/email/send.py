"""The contract of `email.send`: one message, sent to each recipient at most once unless a person asks for a retry."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError, field_validator, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

from shared.contracts.email._header_fields import BadHeaderField, check_header_field
from shared.contracts.email._mailboxes import (
    MAX_MAILBOX_LENGTH,
    BadMailbox,
    Mailbox,
    find_forbidden_character,
    parse_mailbox,
)
from shared.contracts.email._media_types import MAX_MEDIA_TYPE_LENGTH, BadMediaType, parse_media_type
from shared.contracts.kind import FileId, Kind, Params, Result, RetryPolicy

MAX_ATTACHMENTS = 20
MAX_ATTACHMENTS_BYTES = 25 << 20
"""The sum of all attachments of a message, as they are stored."""
MAX_BODY_LENGTH = 1 << 20
MAX_HEADERS = 50
MAX_LISTED = 50


def _normalise_mailbox(value: str) -> str:
    try:
        return str(parse_mailbox(value))
    except BadMailbox as error:
        raise PydanticCustomError("mailbox_invalid", "{reason}", {"reason": str(error)}) from None


def _wrap_in_list(value: object) -> object:
    """Return a tuple of mailboxes for one mailbox or a list. Strict validation of Python values accepts tuples only."""
    if isinstance(value, str):
        return (value,)
    return tuple(value) if isinstance(value, list) else value


MailboxText = Annotated[
    str,
    Field(max_length=MAX_MAILBOX_LENGTH, examples=["Zoë Müller <zoe@example.com>"]),
    AfterValidator(_normalise_mailbox),
]
"""A mailbox, stored in the form that `str(Mailbox)` returns."""


class Attachment(Params):
    """A stored file that is sent with the message."""

    file_id: FileId
    name: Annotated[
        str | None,
        Field(
            min_length=1,
            max_length=200,
            description="The file name that readers of the message see. By default, the name of the stored file.",
        ),
    ] = None
    media_type: Annotated[
        str | None,
        Field(
            min_length=3,
            max_length=MAX_MEDIA_TYPE_LENGTH,
            description=(
                "The media type of the attachment, with its parameters. By default, the type of the stored file. The "
                "parameter `charset` of a text is detected from its bytes unless it is given."
            ),
            examples=["text/calendar; method=REQUEST"],
        ),
    ] = None

    @field_validator("name")
    @classmethod
    def _check_name(cls, value: str | None) -> str | None:
        if value is not None:
            _refuse_forbidden_characters(value)
            if "/" in value or "\\" in value or value in {".", ".."}:
                raise PydanticCustomError("name_is_a_path", "The name of an attachment may not be a path.")
        return value

    @field_validator("media_type")
    @classmethod
    def _normalise_media_type(cls, value: str | None) -> str | None:
        if value is None:
            return None
        try:
            return str(parse_media_type(value))
        except BadMediaType as error:
            raise PydanticCustomError("media_type_invalid", "{reason}", {"reason": str(error)}) from None


class SendParams(Params):
    """The message. A recipient who is named more than once in `to`, `cc` and `bcc` receives it once."""

    sender: Annotated[
        MailboxText | None,
        Field(alias="from", description="The mailbox of the sender. By default, the setting `TASKMILL_MAIL_FROM`."),
    ] = None
    to: Annotated[
        tuple[MailboxText, ...], Field(max_length=MAX_LISTED, description="The mailboxes of the recipients.")
    ] = ()
    cc: Annotated[
        tuple[MailboxText, ...],
        Field(max_length=MAX_LISTED, description="The mailboxes of recipients of a copy."),
    ] = ()
    bcc: Annotated[
        tuple[MailboxText, ...],
        Field(max_length=MAX_LISTED, description="The mailboxes of recipients whom the message does not name."),
    ] = ()
    reply_to: Annotated[
        tuple[MailboxText, ...],
        Field(max_length=MAX_LISTED, description="The mailbox, or the list of mailboxes, to which readers reply."),
        BeforeValidator(_wrap_in_list, json_schema_input_type=str | list[str]),
    ] = ()
    subject: Annotated[str, Field(max_length=998, description="The subject: one line of text.")] = ""
    text: Annotated[str | None, Field(max_length=MAX_BODY_LENGTH, description="The message as plain text.")] = None
    html: Annotated[str | None, Field(max_length=MAX_BODY_LENGTH, description="The message as HTML.")] = None
    attachments: Annotated[
        tuple[Attachment, ...],
        Field(max_length=MAX_ATTACHMENTS, description="Stored files to attach, 25 MiB together at most."),
    ] = ()
    headers: Annotated[
        dict[str, str],
        Field(
            default_factory=dict,
            max_length=MAX_HEADERS,
            description=(
                "Further header fields by their names, such as `List-Unsubscribe`. An ASCII value is sent exactly as "
                "given, folded only at white space. Other characters are allowed only in free text: in fields whose "
                "names begin with `X-`, and in `Comments`, `Keywords`, `Organization` and `Thread-Topic`."
            ),
        ),
    ]

    @field_validator("subject")
    @classmethod
    def _check_subject(cls, value: str) -> str:
        _refuse_forbidden_characters(value)
        return value.strip()

    @field_validator("text", "html")
    @classmethod
    def _refuse_null(cls, value: str | None) -> str | None:
        if value is not None and "\0" in value:
            raise PydanticCustomError("character_refused", "The character U+0000 is not allowed here.")
        return value

    @field_validator("headers")
    @classmethod
    def _check_headers(cls, value: dict[str, str]) -> dict[str, str]:
        errors = list(_list_header_errors(value))
        if errors:
            raise ValidationError.from_exception_data("headers", errors)
        return {name: text.strip(" \t") for name, text in value.items()}

    @model_validator(mode="after")
    def _require_recipient_and_body(self) -> SendParams:
        errors: list[InitErrorDetails] = []
        if not (self.to or self.cc or self.bcc):
            error = PydanticCustomError("recipient_missing", "Name at least one recipient in `to`, `cc` or `bcc`.")
            errors.append(InitErrorDetails(type=error, loc=("to",), input=self.to))
        if self.text is None and self.html is None:
            error = PydanticCustomError("body_missing", "Send at least one of `text` and `html`.")
            errors.append(InitErrorDetails(type=error, loc=("text",), input=None))
        if errors:
            raise ValidationError.from_exception_data("message", errors)
        return self

    def list_recipients(self) -> list[Mailbox]:
        """Return each recipient once, in the order in which they are named."""
        mailboxes = [parse_mailbox(text) for text in (*self.to, *self.cc, *self.bcc)]
        return list({mailbox.address: mailbox for mailbox in mailboxes}.values())


def _refuse_forbidden_characters(value: str) -> None:
    if (character := find_forbidden_character(value)) is not None:
        raise PydanticCustomError(
            "character_refused", "The character {character} is not allowed here.", {"character": character}
        )


def _list_header_errors(headers: dict[str, str]) -> Iterator[InitErrorDetails]:
    seen: set[str] = set()
    for name, value in headers.items():
        try:
            check_header_field(name, value)
            if name.lower() in seen:
                raise BadHeaderField("header_doubled", "This header field is given twice.")
        except BadHeaderField as fault:
            error = PydanticCustomError(fault.code, "{reason}", {"reason": str(fault)})
            yield InitErrorDetails(type=error, loc=(name,), input=value)
        seen.add(name.lower())


class RecipientOutcome(Result):
    """The outcome for one recipient."""

    address: str
    status: Literal["accepted", "rejected"]
    code: Annotated[int | None, Field(description="The code of the mail server's reply. Null if there was no reply.")]
    reply: Annotated[str, Field(description="The text of the mail server's reply, shortened.")]


class SendResult(Result):
    """The outcome for each recipient, once. At least one of them was accepted."""

    recipients: list[RecipientOutcome]


KIND = Kind(
    params=SendParams,
    result=SendResult,
    title="Send an email",
    description=(
        "Sends one message through the mail server. The task succeeds when the mail server accepted at least one "
        "recipient and no recipient is deferred. Recipients who are refused with a 4xx reply (or with 552 in reply to "
        "RCPT) are deferred: the task retries for them alone. A 5xx reply is final. While the task is `retrying`, and "
        "when it has failed, `error.data.recipients` has the outcome of each recipient, whose `status` can also be "
        "`deferred` or `unknown`."
    ),
    example={
        "to": ["Zoë Müller <zoe@example.com>"],
        "reply_to": "support@example.com",
        "subject": "Your report",
        "text": "The report is ready.",
    },
    queue="email",
    max_attempts=8,
    timeout_seconds=300,
    retry=RetryPolicy(first_seconds=30.0),
    deliveries="email",
    errors={
        "mail-rejected": "The mail server accepted the message for none of its recipients.",
        "mail-deferred": "The mail server asked to try again later for some recipients. The task retries.",
        "mail-server-unavailable": (
            "There was no session with the mail server: it could not be reached, refused the session, or closed the "
            "connection. This attempt sent nothing."
        ),
        "mail-login-refused": (
            "The mail server refused the credentials in the settings, or requires some. This attempt sent nothing."
        ),
        "quota-senders": "The caller or its organization may not send from this address. This attempt sent nothing.",
        "message-too-large": "The attachments together are larger than a message may be.",
        "unsendable-attachment": (
            "A file cannot be attached as `message/rfc822`, because it contains a null byte or a line of more than "
            "998 bytes."
        ),
        "delivery-unknown": (
            "The attempt or its connection ended while the message was being sent, so it is unknown whether the mail "
            "server accepted it. `POST /tasks/<id>/retry` sends it to the recipients whose status is `unknown` or "
            "`deferred`; those who are `unknown` may then receive it twice."
        ),
    },
)
