"""Parts of a file, and the headers under which a file is handed out (RFC 9110, RFC 6266)."""

from __future__ import annotations

import re
import unicodedata
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Final, NamedTuple
from urllib.parse import quote

_RANGE: Final = re.compile(r"bytes\s*=\s*([0-9]*)\s*-\s*([0-9]*)\s*", re.I)
MOST_DIGITS: Final = 18
_PLAIN_NAME: Final = re.compile(r"[A-Za-z0-9 !#$&+.^_`|~(),;=@'\[\]{}-]+")


class ByteRange(NamedTuple):
    """A part of a file."""

    start: int
    length: int

    def content_range(self, size: int) -> str:
        """Give the header Content-Range (RFC 9110, 14.4)."""
        return f"bytes {self.start}-{self.start + self.length - 1}/{size}"


class RangeNotSatisfiable(Exception):
    """The file has no byte in the range."""


def find_range(header: str | None, size: int) -> ByteRange | None:
    """Give the part of a file of `size` bytes that the header Range asks for, or None for the whole.

    A header that names several ranges, another unit than bytes, or nonsense is ignored, as RFC 9110 (14.2) allows or
    demands. Raises `RangeNotSatisfiable` when the one range has no byte in the file (14.1.2).
    """
    found = _RANGE.fullmatch(header.strip()) if header is not None else None
    if found is None or found.group(1) == found.group(2) == "":
        return None
    first, last = (_shorten(digits) for digits in found.groups())
    if first == "":
        length = min(int(last), size)
        if length == 0:
            raise RangeNotSatisfiable
        return ByteRange(size - length, length)
    start = int(first)
    end = int(last) if last else size - 1
    if last and end < start:
        return None
    if start >= size:
        raise RangeNotSatisfiable
    return ByteRange(start, min(end, size - 1) - start + 1)


def _shorten(digits: str) -> str:
    """Give a number that is beyond every file for one that is longer: Python refuses to read thousands of digits."""
    return digits if len(digits.lstrip("0")) <= MOST_DIGITS and len(digits) < 1000 else "9" * MOST_DIGITS


def range_applies(if_range: str | None, etag: str, last_modified: str) -> bool:
    """Whether Range is to be heeded (RFC 9110, 13.1.5): the validator must be the file's own, compared strongly."""
    return if_range is None or if_range.strip() in (etag, last_modified)


def http_date(moment: datetime) -> str:
    """Write a moment as HTTP does (RFC 9110, 5.6.7)."""
    return format_datetime(moment.astimezone(UTC), usegmt=True)


def attachment(name: str) -> str:
    """Give a Content-Disposition that saves a file under its name (RFC 6266; the encoding of RFC 8187).

    A name that is not plain ASCII is given twice, the second time exactly, as RFC 6266 (appendix D) advises: programs
    that do not know `filename*` show the first.
    """
    if _PLAIN_NAME.fullmatch(name):
        return f'attachment; filename="{name}"'
    letters = "".join(c for c in unicodedata.normalize("NFKD", name) if not unicodedata.combining(c))
    plain = re.sub(r'[^ -~]|["\\%/]', "_", letters)
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe='!#$&+-.^_`|~')}"
