"""Writes attachments as parts of a message, with the media type that was asked for."""

from __future__ import annotations

import re
from email import policy
from email.message import EmailMessage
from typing import NamedTuple

from shared.contracts.email._header_fields import MAX_LINE_BYTES
from shared.contracts.email._media_types import BadMediaType, MediaType, parse_media_type
from workers.formats.encodings import NotText, find_encoding
from workers.handler_context import InputFile
from workers.handlers.email._header_lines import write_disposition_field
from workers.outcomes import Failed

UNKNOWN_TYPE = MediaType("application", "octet-stream")
_MESSAGE_TYPE = "message/rfc822"
# These texts declare their encoding themselves, and a guess would override it.
_SELF_DECLARING_TYPES = frozenset({"text/html", "text/xml"})
_LINE_ENDS = re.compile(rb"\r\n|\r|\n")


class AttachedFile(NamedTuple):
    """A file to attach, the name that readers see, and the media type that the caller asked for, if any."""

    file: InputFile
    name: str
    media_type: str | None = None


def write_attachment(attached: AttachedFile) -> bytes:
    """Return a file as a part of a multipart message: header, empty line, content.

    The content is in base64, except for `message/rfc822`, which may not be encoded (RFC 2046 section 5.2.1).
    Raises `Failed` when a file of that type cannot be sent without encoding.
    """
    media_type = _choose_media_type(attached)
    if media_type.name == _MESSAGE_TYPE:
        return _write_message(attached, media_type)
    part = EmailMessage(policy=policy.SMTP)
    part.set_content(
        attached.file.path.read_bytes(),
        maintype=media_type.maintype,
        subtype=media_type.subtype,
        params=dict(media_type.parameters),
    )
    del part["MIME-Version"]
    return write_disposition_field(attached.name) + part.as_bytes()


def _write_message(attached: AttachedFile, media_type: MediaType) -> bytes:
    content = _LINE_ENDS.sub(b"\r\n", attached.file.path.read_bytes())
    if b"\0" in content or max(map(len, content.split(b"\r\n"))) > MAX_LINE_BYTES:
        raise Failed(
            "/problems/unsendable-attachment",
            "Unsendable attachment",
            f"The file {attached.file.id} cannot be attached as {_MESSAGE_TYPE}: mail does not allow such an attachment "
            f"to be encoded, and it contains a null byte or a line of more than {MAX_LINE_BYTES} bytes. Attach it as "
            "application/octet-stream.",
        )
    part = EmailMessage(policy=policy.SMTP)
    part["Content-Type"] = str(media_type)
    part["Content-Transfer-Encoding"] = "7bit" if content.isascii() else "8bit"
    part.set_payload("")
    return write_disposition_field(attached.name) + part.as_bytes() + content


def _choose_media_type(attached: AttachedFile) -> MediaType:
    """Return the type that was asked for, or the stored one where mail allows it, with the charset of a text."""
    try:
        media_type = parse_media_type(attached.media_type or attached.file.media_type)
    except BadMediaType:
        return UNKNOWN_TYPE
    if media_type.maintype != "text" or any(name == "charset" for name, _ in media_type.parameters):
        return media_type
    charset = _find_charset(attached, media_type)
    if charset is None:
        return media_type
    return MediaType(media_type.maintype, media_type.subtype, (*media_type.parameters, ("charset", charset)))


def _find_charset(attached: AttachedFile, media_type: MediaType) -> str | None:
    """Return the IANA name of a text's encoding, or None when the bytes are not text or the text declares it itself."""
    try:
        charset = find_encoding(attached.file.path).iana_name
    except NotText:
        return None
    is_certain = charset.startswith("utf-")
    return charset if is_certain or media_type.name not in _SELF_DECLARING_TYPES else None
