"""Writes header fields as bytes.

The standard library is not used for this. On some supported versions of Python it folds address lists wrongly (a long
display name beyond ASCII changes, and one that looks like an encoded word is decoded), and it encodes long words such
as the URL of `List-Unsubscribe`, which no receiver decodes. Here a field is a list of words, and is folded between
words only (RFC 5322 section 2.2.3).
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator
from urllib.parse import quote

from shared.contracts.email._header_fields import split_words
from shared.contracts.email._mailboxes import Mailbox, quote_display_name

_PREFERRED_LINE_BYTES = 76
"""The limit of a line with an encoded word (RFC 2047 section 2); other lines should have at most 78."""
_LONGEST_WORD_BYTES = 900
_ENCODED_WORD_BYTES = 45
"""60 characters of base64, so that a word with its `=?utf-8?b?…?=` stays within 75 (RFC 2047 section 2)."""
_AROUND_ENCODED_WORD = len("=?utf-8?b??=")
_LONGEST_CHARACTER_BYTES = 4


def write_literal_field(name: str, value: str) -> bytes:
    """Return a field whose value is sent exactly as given, folded at white space.

    `check_header_field` has checked that each word fits in a line.
    """
    return _fold(name, _start_with_one_space(split_words(value)))


def write_text_field(name: str, value: str, *, smtputf8: bool = False) -> bytes:
    """Return a field of free text, such as `Subject`, which a reader shows exactly as given.

    Encoded words (RFC 2047) are used where the text is not ASCII, looks like an encoded word, or has a word that does
    not fit in a line. With `smtputf8`, text beyond ASCII is sent in UTF-8 (RFC 6532). The value has no control
    characters but tabs.
    """
    words = split_words(value)
    is_literal = (value.isascii() or smtputf8) and "=?" not in value
    if is_literal and all(len(word.encode()) <= _LONGEST_WORD_BYTES for word in words):
        return _fold(name, _start_with_one_space(words))
    return _fold(name, [f" {word}" for word in _encode_words(value, used_bytes=len(name) + len(": "))])


def write_mailboxes_field(name: str, mailboxes: Iterable[Mailbox], *, smtputf8: bool = False) -> bytes:
    """Return a field of mailboxes, such as `To`. Without `smtputf8`, none of them may need it.

    Encoded words are used in display names only, never in addresses.
    """
    words: list[str] = []
    for mailbox in mailboxes:
        if words:
            words[-1] += ","
        if mailbox.display_name:
            # Only the first word of a field stands in a line that is begun and cannot be broken.
            used_bytes = 0 if words else len(name) + len(": ")
            words += [f" {word}" for word in _write_phrase(mailbox.display_name, used_bytes, smtputf8)]
            words.append(f" <{mailbox.wire_address}>")
        else:
            words.append(f" {mailbox.wire_address}")
    return _fold(name, words)


def write_disposition_field(file_name: str) -> bytes:
    """Return the field `Content-Disposition` of an attachment, whose name readers show exactly as given.

    A name beyond ASCII is written as RFC 2231 says. So is one that looks like an encoded word, which most readers would
    decode although RFC 2047 section 5 forbids it there. Long names are not split: few readers join the parts.
    """
    if file_name.isascii() and file_name.isprintable() and "=?" not in file_name:
        quoted = file_name.replace("\\", "\\\\").replace('"', '\\"')
        return _fold("Content-Disposition", [" attachment;", f' filename="{quoted}"'])
    return _fold("Content-Disposition", [" attachment;", f" filename*=utf-8''{quote(file_name, safe='')}"])


def _start_with_one_space(words: list[str]) -> list[str]:
    return [f" {words[0].lstrip()}", *words[1:]] if words else []


def _write_phrase(display_name: str, used_bytes: int, smtputf8: bool) -> list[str]:
    if "=?" in display_name or not (display_name.isascii() or smtputf8):
        return list(_encode_words(display_name, used_bytes=used_bytes))
    return [quote_display_name(display_name)]


def _encode_words(text: str, *, used_bytes: int) -> Iterator[str]:
    """Yield encoded words, each of which can be decoded alone: no character is split (RFC 2047 section 5).

    The first of them fits in a line that already has `used_bytes`, as far as one can fit there at all.
    """
    room = (_PREFERRED_LINE_BYTES - used_bytes - _AROUND_ENCODED_WORD) // 4 * 3
    piece, most_bytes = b"", max(_LONGEST_CHARACTER_BYTES, min(_ENCODED_WORD_BYTES, room))
    for character in text:
        encoded = character.encode()
        if len(piece) + len(encoded) > most_bytes:
            yield _encode_word(piece)
            piece, most_bytes = b"", _ENCODED_WORD_BYTES
        piece += encoded
    if piece:
        yield _encode_word(piece)


def _encode_word(piece: bytes) -> str:
    return f"=?utf-8?b?{base64.b64encode(piece).decode()}?="


def _fold(name: str, words: Iterable[str]) -> bytes:
    """Join words, each of which begins with the white space before it, and break lines before those that are too long.

    The first word always stands in the line of the name.
    """
    lines = [f"{name}:".encode()]
    for position, word in enumerate(words):
        encoded = word.encode()
        if position > 0 and len(lines[-1]) + len(encoded) > _PREFERRED_LINE_BYTES:
            lines.append(encoded)
        else:
            lines[-1] += encoded
    return b"\r\n".join(lines) + b"\r\n"
