"""Tells how a text is encoded, in a limited child, without holding more than a piece of it."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from pathlib import Path

from workers.formats.problems import unreadable_text

PIECE_BYTES = 1 << 20
SAMPLE_BYTES = 256 << 10
"""How much of a text is looked at where its bytes alone do not tell."""

_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    # The mark of UTF-32 begins as that of UTF-16 does, so it is looked for before.
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)

_OTHER_SCRIPTS = ("cp1251", "koi8_r", "cp1253", "cp1255", "cp1256", "cp932", "euc_jp", "gb18030", "big5", "cp949")
"""Encodings of scripts other than Latin that the Encoding Standard knows, each by its largest relative."""

_WORD_BEYOND_ASCII = re.compile(rb"[\x80-\xff]{3,}")
FEWEST_SIGNS = 8
"""Fewer different bytes beyond ASCII say nothing of a script."""


def find_encoding(path: str) -> str:
    """Give the encoding of a file, as Python names it. Raises `/problems/unreadable-text`.

    A byte order mark decides; then UTF-8 (and so ASCII) if all of the file is. Of other bytes nothing but a likelihood
    can be told: where whole words lie beyond ASCII, the likeliest of another script; else Windows-1252, which contains
    Latin-1, as the Encoding Standard of WHATWG falls back on, and as `reports.run` reads the same file.
    """
    with Path(path).open("rb") as stream:
        head = stream.read(4)
    for mark, encoding in _MARKS:
        if head.startswith(mark):
            return encoding
    if _is_utf8(path):
        return "utf-8"
    return _guess(path)


def _is_utf8(path: str) -> bool:
    try:
        for _ in read_text(path, "utf-8"):
            pass
    except UnicodeDecodeError:
        return False
    return True


def _guess(path: str) -> str:
    with Path(path).open("rb") as stream:
        sample = _from_first_odd_byte(stream.read(SAMPLE_BYTES), path)
    if b"\0" in sample:
        raise unreadable_text()
    if not _has_words_beyond_ascii(sample):
        return "cp1252"
    from charset_normalizer import from_bytes

    best = from_bytes(sample, cp_isolation=list(_OTHER_SCRIPTS), enable_fallback=False).best()
    return best.encoding if best is not None and best.encoding in _OTHER_SCRIPTS else "cp1252"


def _has_words_beyond_ascii(sample: bytes) -> bool:
    """Whether most bytes beyond ASCII stand together, as in Greek or Chinese, and not among others, as in `Grüße`."""
    words = b"".join(_WORD_BEYOND_ASCII.findall(sample))
    beyond = len(sample) - len(sample.translate(None, bytes(range(0x80, 0x100))))
    return 2 * len(words) > beyond and len(set(words)) >= FEWEST_SIGNS


def _from_first_odd_byte(sample: bytes, path: str) -> bytes:
    """Give a sample that holds what is not ASCII, should that come late in a long file."""
    if not sample.isascii():
        return sample
    with Path(path).open("rb") as stream:
        while piece := stream.read(PIECE_BYTES):
            if not piece.isascii():
                at = next(position for position, byte in enumerate(piece) if byte > 0x7F)
                return piece[max(0, at - SAMPLE_BYTES // 2) : at + SAMPLE_BYTES // 2]
    return sample


def read_text(path: str, encoding: str, errors: str = "strict") -> Iterator[str]:
    """Give a text in pieces, without its byte order mark. Raises `UnicodeDecodeError` if `errors` is `strict`."""
    decoder = codecs.getincrementaldecoder(encoding)(errors)
    with Path(path).open("rb") as stream:
        while piece := stream.read(PIECE_BYTES):
            yield decoder.decode(piece)
    yield decoder.decode(b"", final=True)


def iana_name(encoding: str) -> str:
    """Give the IANA name, in small letters, of an encoding that Python names otherwise."""
    name = codecs.lookup(encoding).name
    if name == "utf-8-sig":
        return "utf-8"
    if name.startswith("cp125"):
        return name.replace("cp", "windows-")
    if name.startswith("iso8859-"):
        return name.replace("iso", "iso-", 1)
    return name.replace("_", "-")
