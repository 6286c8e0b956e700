"""Header fields as bytes.

The standard library folds address lists wrongly on some of the Pythons that we run on (a long display name beyond
ASCII changes, and one that looks like an encoded word is taken for one), and encodes long tokens such as the URL of
`List-Unsubscribe`, which no receiver decodes. What is written here is small enough to be held by a test that parses
it back: a field is a row of tokens, and is folded between tokens only (RFC 5322 section 2.2.3).
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Iterator

from shared.contracts.email._mailboxes import Mailbox, quote_display_name

_PREFERRED_LINE_BYTES = 78
_LONGEST_TOKEN_BYTES = 900
_ENCODED_WORD_BYTES = 45
"""60 characters of base64, so that a word with its `=?utf-8?b?…?=` stays within 75 (RFC 2047 section 2)."""

_TOKEN = re.compile(r"[ \t]*[^ \t]+")


def write_text_field(name: str, value: str, *, smtputf8: bool = False) -> bytes:
    """Give a field of free text, such as `Subject`: encoded words (RFC 2047) where it is not ASCII.

    With `smtputf8` it is left in UTF-8 (RFC 6532). The value holds no control characters but tabs.
    """
    tokens = _TOKEN.findall(value)
    speaks_plainly = (value.isascii() or smtputf8) and "=?" not in value
    if not speaks_plainly or any(len(token.encode()) > _LONGEST_TOKEN_BYTES for token in tokens):
        tokens = [f" {word}" for word in _encode_words(value)]
    elif tokens:
        tokens[0] = f" {tokens[0].lstrip()}"
    return _fold(name, tokens)


def write_mailboxes_field(name: str, mailboxes: Iterable[Mailbox], *, smtputf8: bool = False) -> bytes:
    """Give a field of mailboxes, such as `To`. Without `smtputf8`, none of them may need it."""
    tokens: list[str] = []
    for mailbox in mailboxes:
        if tokens:
            tokens[-1] += ","
        if mailbox.display_name:
            tokens += [f" {word}" for word in _write_phrase(mailbox.display_name, smtputf8)]
            tokens.append(f" <{mailbox.wire_address}>")
        else:
            tokens.append(f" {mailbox.wire_address}")
    return _fold(name, tokens)


def _write_phrase(display_name: str, smtputf8: bool) -> list[str]:
    if "=?" in display_name or not (display_name.isascii() or smtputf8):
        return list(_encode_words(display_name))
    return [quote_display_name(display_name)]


def _encode_words(text: str) -> Iterator[str]:
    """Give encoded words that each decode by themselves: a character is never split (RFC 2047 section 5)."""
    piece = b""
    for character in text:
        encoded = character.encode()
        if len(piece) + len(encoded) > _ENCODED_WORD_BYTES:
            yield _encode_word(piece)
            piece = b""
        piece += encoded
    if piece:
        yield _encode_word(piece)


def _encode_word(piece: bytes) -> str:
    return f"=?utf-8?b?{base64.b64encode(piece).decode()}?="


def _fold(name: str, tokens: Iterable[str]) -> bytes:
    """Join tokens, each of which begins with the white space before it, and break lines where they grow long."""
    lines = [f"{name}:".encode()]
    for token in tokens:
        encoded = token.encode()
        if len(lines[-1]) + len(encoded) > _PREFERRED_LINE_BYTES and lines[-1] != f"{name}:".encode():
            lines.append(encoded)
        else:
            lines[-1] += encoded
    return b"\r\n".join(lines) + b"\r\n"
