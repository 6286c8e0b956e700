"""Composes a message: its header fields, its text and HTML, and its attachments."""

from __future__ import annotations

import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email import policy
from email.message import EmailMessage
from email.utils import format_datetime
from uuid import UUID

from shared.contracts.email._mailboxes import Mailbox, parse_mailbox
from shared.contracts.email.send import SendParams
from workers.handlers.email._attachments import AttachedFile, write_attachment
from workers.handlers.email._header_lines import write_literal_field, write_mailboxes_field, write_text_field

# Text and HTML are sent in 7 bits, so that no server needs 8BITMIME (RFC 6152) and every line is short enough.
_BODY_POLICY = policy.SMTP.clone(cte_type="7bit")
_LINE_ENDS = re.compile(rb"\r\n|\r|\n")


@dataclass(frozen=True)
class Message:
    """A message in the form in which it is sent."""

    sender: Mailbox
    message_id: str
    """The same at every attempt, so that a receiver can recognize a duplicate."""
    needs_smtputf8: bool
    """Whether an address in the header has characters beyond ASCII before its @.

    Such a message cannot be sent to a server without SMTPUTF8: an encoded word may not stand in an address (RFC 2047
    section 5).
    """
    needs_8bitmime: bool
    """Whether an attached message has bytes beyond ASCII, which may not be encoded (RFC 2046 section 5.2.1)."""
    content: bytes = field(repr=False)
    """The header without `Bcc`, and the body. Every line ends with CRLF."""


def compose_message(
    params: SendParams,
    attached: Sequence[AttachedFile],
    *,
    task_id: UUID,
    default_sender: Mailbox,
    now: datetime | None = None,
) -> Message:
    """Compose the message, dated `now`, which is the present time by default.

    Raises `Failed` when an attachment cannot be sent with its media type.
    """
    sender = parse_mailbox(params.sender) if params.sender is not None else default_sender
    # The domain may be an IP address in brackets, which is a `no-fold-literal` (RFC 5322 section 3.6.4).
    message_id = f"<{task_id}@{sender.ascii_domain}>"
    mailboxes_of = {
        "From": [sender],
        "To": [parse_mailbox(text) for text in params.to],
        "Cc": [parse_mailbox(text) for text in params.cc],
        "Reply-To": [parse_mailbox(text) for text in params.reply_to],
    }
    smtputf8 = any(mailbox.needs_smtputf8 for mailboxes in mailboxes_of.values() for mailbox in mailboxes)

    fields = [write_literal_field("Date", format_datetime(now or datetime.now(UTC)))]
    fields += [
        write_mailboxes_field(name, mailboxes, smtputf8=smtputf8)
        for name, mailboxes in mailboxes_of.items()
        if mailboxes
    ]
    if not params.to and not params.cc:
        fields.append(write_literal_field("To", "undisclosed-recipients:;"))
    if params.subject:
        fields.append(write_text_field("Subject", params.subject, smtputf8=smtputf8))
    fields.append(write_literal_field("Message-ID", message_id))
    fields += [_write_further_field(name, value, smtputf8=smtputf8) for name, value in params.headers.items()]

    body = _write_body(params, attached)
    return Message(sender, message_id, smtputf8, not body.isascii(), b"".join(fields) + body)


def _write_further_field(name: str, value: str, *, smtputf8: bool) -> bytes:
    """Return a field that the caller added. What is beyond ASCII is free text: the contract refuses it elsewhere."""
    return write_literal_field(name, value) if value.isascii() else write_text_field(name, value, smtputf8=smtputf8)


def _write_body(params: SendParams, attached: Sequence[AttachedFile]) -> bytes:
    text = EmailMessage(policy=_BODY_POLICY)
    if params.text is not None:
        text.set_content(params.text)
        if params.html is not None:
            text.add_alternative(params.html, subtype="html")
    else:
        text.set_content(params.html or "", subtype="html")
    if attached:
        del text["MIME-Version"]
    # Servers disagree about whether a lone CR or LF ends a line, and with it the message (CVE-2023-51764).
    parts = [_LINE_ENDS.sub(b"\r\n", part) for part in (text.as_bytes(), *map(write_attachment, attached))]
    return _join_parts(parts) if attached else parts[0]


def _join_parts(parts: Sequence[bytes]) -> bytes:
    """Return the parts as the body, with its header, of a message of the type `multipart/mixed`."""
    boundary = f"=_{secrets.token_hex(16)}"
    encoding = "7bit" if all(map(bytes.isascii, parts)) else "8bit"
    header = (
        "MIME-Version: 1.0\r\n"
        f'Content-Type: multipart/mixed; boundary="{boundary}"\r\n'
        f"Content-Transfer-Encoding: {encoding}\r\n"
    )
    separator = f"\r\n--{boundary}"
    body = b"".join(separator.encode() + b"\r\n" + part for part in parts)
    return header.encode() + body + separator.encode() + b"--\r\n"
