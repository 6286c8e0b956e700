"""Reads the name of an uploaded file from the Content-Disposition of its part."""

from __future__ import annotations

import re
from base64 import b64decode
from binascii import Error as Base64Error
from binascii import a2b_qp
from collections.abc import Mapping
from contextlib import suppress
from email.message import Message
from itertools import groupby
from typing import Final

ESCAPED_BY_BROWSERS: Final = re.compile(b"%(22|0D|0A)")
ENCODED_WORD: Final = re.compile(r"=\?([A-Za-z0-9!#$%&'+^_`{}~-]+)(?:\*[A-Za-z0-9-]*)?\?([BbQq])\?([!->@-~]*)\?=")
"""RFC 2047, section 2, with the language of RFC 2231, section 5."""
ENCODED_WORDS: Final = re.compile(rf"\s*{ENCODED_WORD.pattern}(?:\s+{ENCODED_WORD.pattern})*\s*")


def read_file_name(disposition: str, options: Mapping[bytes, bytes]) -> str | None:
    """Return the file name that the client sent, or None if it sent none.

    `disposition` is the header as Latin-1, and `options` are its plain parameters. `filename*` takes precedence over
    `filename` (RFC 6266, section 4.3): RFC 7578, section 4.2, forbids it in forms, but clients send it, some of them alone.
    In `filename`, browsers write `%22`, `%0D` and `%0A` for a quotation mark and line ends, and escape nothing else (HTML,
    4.10.22.8, Multipart form data). One that consists of encoded words (RFC 2047), which some clients send, is decoded.
    """
    extended, continued = _read_extended_names(disposition) if "*" in disposition else (None, None)
    if extended is not None:
        return extended
    plain = options.get(b"filename", continued)
    return None if plain is None else decode_words(decode_text(ESCAPED_BY_BROWSERS.sub(_unescape, plain)))


def _unescape(escape: re.Match[bytes]) -> bytes:
    return bytes([int(escape[1], 16)])


def decode_text(value: bytes) -> str:
    """Return a parameter's value as text: browsers send UTF-8, and others ISO 8859-1."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")


def decode_words(text: str) -> str:
    """Return a text that consists of encoded words decoded (RFC 2047), and any other text as it is.

    A text is left as it is, too, if one of its words has an unknown charset or is malformed.
    """
    if not text.lstrip().startswith("=?") or ENCODED_WORDS.fullmatch(text) is None:
        return text
    try:
        words = [
            (charset.lower(), _decode_word(encoding, content))
            for charset, encoding, content in ENCODED_WORD.findall(text)
        ]
        # A character may be divided among words of one charset, although section 5 forbids it.
        return "".join(
            b"".join(content for _, content in group).decode(charset)
            for charset, group in groupby(words, key=lambda word: word[0])
        )
    except (Base64Error, LookupError, UnicodeError, ValueError):
        return text


def _decode_word(encoding: str, content: str) -> bytes:
    if encoding in "Qq":
        if re.search("=(?![0-9A-Fa-f]{2})", content):
            raise ValueError("a malformed escape")
        return a2b_qp(content.encode("ascii"), header=True)
    return b64decode(content, validate=True)


def _read_extended_names(disposition: str) -> tuple[str | None, bytes | None]:
    """Return the decoded `filename*` (RFC 8187), and the bytes of a `filename` in several parts (RFC 2231, section 3).

    Each is None if there is no valid one.
    """
    message = Message()
    message["Content-Disposition"] = disposition
    extended, continued = None, None
    for name, value in message.get_params([], header="Content-Disposition"):
        if name.lower() != "filename":
            continue
        if isinstance(value, str):
            continued = value.encode("latin-1", "replace")
            continue
        charset, _, text = value
        with suppress(LookupError, UnicodeError):
            extended = text.encode("latin-1").decode(charset) if charset else None
    return extended or None, continued
