"""Tells how a text is encoded, in a limited child, without holding more than a piece of it."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from pathlib import Path

from workers.files._errors import unreadable_text

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


def find_encoding(path: str) -> str:
    """Give the encoding of a file, as Python names it. Raises `/problems/unreadable-text`.

    A byte order mark decides; then UTF-8 (and so ASCII) if all of the file is; else the likeliest by its letters.
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
    from charset_normalizer import from_bytes

    with Path(path).open("rb") as stream:
        sample = _from_first_odd_byte(stream.read(SAMPLE_BYTES), path)
    if b"\0" in sample:
        raise unreadable_text()
    best = from_bytes(sample, enable_fallback=False).best()
    # Nearly every byte is a letter or a sign of it, and it is the likeliest of a text that is too short to tell.
    return best.encoding if best is not None and best.encoding != "ascii" else "cp1252"


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
