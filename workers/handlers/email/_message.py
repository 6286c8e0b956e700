"""Makes the message: its header fields, its text and HTML, and its attachments."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email import policy
from email.message import EmailMessage
from email.utils import format_datetime
from typing import NamedTuple
from uuid import UUID

from shared.contracts.email._mailboxes import Mailbox, parse_mailbox
from shared.contracts.email.send import SendParams
from workers.handler_context import InputFile
from workers.handlers.email._header_lines import write_mailboxes_field, write_text_field

# Bodies stay in 7 bits, so that no server needs 8BITMIME (RFC 6152) and no line is longer than it may be.
_BODY_POLICY = policy.SMTP.clone(cte_type="7bit")
_LINE_ENDS = re.compile(rb"\r\n|\r|\n")


class AttachedFile(NamedTuple):
    """A file to attach, and the name it is to bear."""

    file: InputFile
    name: str


@dataclass(frozen=True)
class Message:
    """One message as it goes over the wire."""

    sender: Mailbox
    message_id: str
    """The same at every attempt, so that a receiver can tell a double."""
    needs_smtputf8: bool
    """Whether an address in the header has characters beyond ASCII before its @.

    Such a message has no form for a server without SMTPUTF8: an encoded word may not stand in an address (RFC 2047
    section 5).
    """
    content: bytes = field(repr=False)
    """Its lines are ended by CRLF, and there is no `Bcc` in it."""


def compose_message(
    params: SendParams,
    attached: Sequence[AttachedFile],
    *,
    task_id: UUID,
    default_sender: Mailbox,
    now: datetime | None = None,
) -> Message:
    """Make the message; `now`, the time if not given, is its `Date`."""
    sender = parse_mailbox(params.sender) if params.sender is not None else default_sender
    # An IP address in brackets is a `no-fold-literal`, and so may stand there too (RFC 5322 section 3.6.4).
    message_id = f"<{task_id}@{sender.ascii_domain}>"
    listed = {
        "From": [sender],
        "To": [parse_mailbox(text) for text in params.to],
        "Cc": [parse_mailbox(text) for text in params.cc],
        "Reply-To": [parse_mailbox(text) for text in params.reply_to],
    }
    smtputf8 = any(mailbox.needs_smtputf8 for mailboxes in listed.values() for mailbox in mailboxes)

    fields = [write_text_field("Date", format_datetime(now or datetime.now(UTC)))]
    fields += [
        write_mailboxes_field(name, mailboxes, smtputf8=smtputf8) for name, mailboxes in listed.items() if mailboxes
    ]
    if not params.to and not params.cc:
        fields.append(write_text_field("To", "undisclosed-recipients:;"))
    if params.subject:
        fields.append(write_text_field("Subject", params.subject, smtputf8=smtputf8))
    fields.append(write_text_field("Message-ID", message_id))
    fields += [write_text_field(name, value, smtputf8=smtputf8) for name, value in params.headers.items()]

    # A lone CR or LF reads as the end of the message to some servers and not to others (CVE-2023-51764 and its kin).
    body = _LINE_ENDS.sub(b"\r\n", _make_body(params, attached).as_bytes())
    return Message(sender, message_id, smtputf8, b"".join(fields) + body)


def _make_body(params: SendParams, attached: Sequence[AttachedFile]) -> EmailMessage:
    body = EmailMessage(policy=_BODY_POLICY)
    if params.text is not None:
        body.set_content(params.text)
        if params.html is not None:
            body.add_alternative(params.html, subtype="html")
    else:
        body.set_content(params.html or "", subtype="html")
    for file, name in attached:
        maintype, subtype = _choose_media_type(file.media_type)
        body.add_attachment(file.path.read_bytes(), maintype=maintype, subtype=subtype, filename=name)
    return body


def _choose_media_type(media_type: str) -> tuple[str, str]:
    """Split a media type; what may not be in base64 (RFC 2046 section 5) goes as bytes of no known type."""
    maintype, _, subtype = media_type.partition(";")[0].strip().partition("/")
    if not subtype or maintype in {"message", "multipart"}:
        return "application", "octet-stream"
    return maintype, subtype
