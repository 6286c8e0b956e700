"""Recognizes UTF-8, UTF-16 and UTF-32 by a byte order mark, and UTF-16 and UTF-32 without one by their null bytes."""

from __future__ import annotations

import codecs
import unicodedata

_BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    # The mark of UTF-32 begins with that of UTF-16, so it is looked for first.
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_CODECS_WITHOUT_MARK = ("utf-32-le", "utf-32-be", "utf-16-le", "utf-16-be")
_NO_TEXT = frozenset({"Cc", "Cn", "Co", "Cs"})
_CONTROLS_OF_TEXT = "\t\n\f\r\x1b"
_LEAST_BYTES = 4
_LEAST_ASCII_SHARE = 1 / 10
_HIGH_BYTE_OF_KANA = 0x30


def find_marked_codec(head: bytes) -> str | None:
    """Return the codec that the byte order mark at the beginning names, or None. The codec reads the mark too."""
    return next((codec for mark, codec in _BYTE_ORDER_MARKS if head.startswith(mark)), None)


def find_unmarked_codec(head: bytes) -> str | None:
    """Return the codec of text in UTF-16 or UTF-32 that has no byte order mark, or None. Never that of UTF-8.

    `head` is the beginning of the file, whose last character may be cut off. Such a text has null bytes, because a tenth
    of its characters are ASCII at least: spaces, line ends, digits, separators. Read in the right byte order it has no
    control characters, and no code points without a character. If most characters beyond ASCII are pairs of bytes of
    ASCII, it is text in another encoding into which null bytes came.
    """
    if b"\0" not in head or len(head) < _LEAST_BYTES or len(head) % 2 == 1:
        return None
    return next((codec for codec in _CODECS_WITHOUT_MARK if _is_text_in(codec, head)), None)


def _is_text_in(codec: str, head: bytes) -> bool:
    try:
        text = codecs.getincrementaldecoder(codec)().decode(head)
    except UnicodeError:
        return False
    beyond_ascii = [character for character in text if not character.isascii()]
    return (
        len(text) - len(beyond_ascii) >= max(1.0, _LEAST_ASCII_SHARE * len(text))
        and 2 * sum(map(_is_pair_of_ascii, beyond_ascii)) <= len(beyond_ascii)
        and all(_may_stand_in_text(character) for character in set(text))
    )


def _may_stand_in_text(character: str) -> bool:
    return character in _CONTROLS_OF_TEXT or unicodedata.category(character) not in _NO_TEXT


def _is_pair_of_ascii(character: str) -> bool:
    """Return whether both bytes of the character in UTF-16 are visible ASCII. Kana, which most often are, do not count."""
    high, low = divmod(ord(character), 256)
    return 0x20 <= high < 0x7F and 0x20 <= low < 0x7F and high != _HIGH_BYTE_OF_KANA
