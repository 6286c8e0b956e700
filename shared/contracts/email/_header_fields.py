"""Which header fields a caller may add to a message, and which values they may have."""

from __future__ import annotations

import re

from shared.contracts.email._mailboxes import find_forbidden_character

MAX_LINE_BYTES = 998
"""The longest line of a header, without its line end (RFC 5322 section 2.1.1)."""
MAX_FIELD_LENGTH = 8192
"""The longest value of one field, in characters. It is folded into lines."""

# RFC 5322 section 3.6.8, `ftext`: printable ASCII without the colon.
_FIELD_NAME = re.compile(r"[!-9;-~]{1,76}")
_WORD = re.compile(r"[ \t]*[^ \t]+")
# These are written by the message itself, by the transport or by a signature. A second one would mislead readers or
# servers.
_RESERVED_FIELDS = frozenset(
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
_RESERVED_PREFIXES = ("arc-", "content-", "mime-", "resent-")
_FREE_TEXT_FIELDS = frozenset({"comments", "keywords", "organization", "thread-topic"})
_FREE_TEXT_PREFIX = "x-"


class BadHeaderField(ValueError):
    """The field cannot be sent. `code` names the reason, and the message states it in a sentence for the caller."""

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(reason)
        self.code = code


def check_header_field(name: str, value: str) -> None:
    """Raise `BadHeaderField` unless a message can carry the field, with the value unchanged for its reader."""
    key = name.lower()
    if not _FIELD_NAME.fullmatch(name):
        raise BadHeaderField("header_name_invalid", "This is not the name of a header field (RFC 5322, `ftext`).")
    if key in _RESERVED_FIELDS or key.startswith(_RESERVED_PREFIXES):
        raise BadHeaderField("header_refused", "This header field is set by Taskmill or by mail servers.")
    if (character := find_forbidden_character(value, allowed="\t")) is not None:
        raise BadHeaderField("character_refused", f"The character {character} is not allowed here.")
    if len(value) > MAX_FIELD_LENGTH:
        raise BadHeaderField("header_too_long", f"A header field has at most {MAX_FIELD_LENGTH} characters.")
    if value.isascii():
        _check_length_of_words(name, value)
    elif not _is_free_text(key):
        raise BadHeaderField(
            "header_not_ascii",
            "This header field can only have ASCII characters: encoded words are not allowed in it (RFC 2047, section "
            "5). They are allowed in fields whose names begin with `X-`, and in `Comments`, `Keywords`, `Organization` and "
            "`Thread-Topic`.",
        )


def split_words(value: str) -> list[str]:
    """Return the words of a value, each with the white space before it. A field is folded between them only."""
    return _WORD.findall(value)


def _is_free_text(key: str) -> bool:
    """Whether the field is free text, in which a reader decodes encoded words (RFC 2047 section 5)."""
    return key in _FREE_TEXT_FIELDS or key.startswith(_FREE_TEXT_PREFIX)


def _check_length_of_words(name: str, value: str) -> None:
    # The first word is in the same line as the name, because a line with only a name confuses some servers.
    before = len(name) + len(": ")
    for word in split_words(value.strip(" \t")):
        if before + len(word) > MAX_LINE_BYTES:
            raise BadHeaderField(
                "header_too_long",
                f"A word of a header field must fit in a line of {MAX_LINE_BYTES} bytes: the field is folded only at "
                "white space.",
            )
        before = 0
