"""Reads the header Range, and writes the headers of a download (RFC 9110, RFC 6266)."""

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
        """Return the value of Content-Range (RFC 9110, section 14.4)."""
        return f"bytes {self.start}-{self.start + self.length - 1}/{size}"


class RangeNotSatisfiable(Exception):
    """The file has no byte in the range."""


def find_range(header: str | None, size: int) -> ByteRange | None:
    """Return the part of a file of `size` bytes that the header Range asks for, or None for the whole.

    A header with several ranges, with another unit than bytes, or with a syntax error is ignored, as RFC 9110 (section
    14.2) allows or requires. Raises `RangeNotSatisfiable` when the range has no byte in the file (section 14.1.2).
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
    """Return the digits. If there are too many, return the largest number of `MOST_DIGITS` digits, which exceeds every file size.

    Python raises `ValueError` for a number of thousands of digits.
    """
    return digits if len(digits.lstrip("0")) <= MOST_DIGITS and len(digits) < 1000 else "9" * MOST_DIGITS


def range_applies(if_range: str | None, etag: str, last_modified: str) -> bool:
    """Return whether Range applies (RFC 9110, section 13.1.5): `If-Range` is absent, or names this file by strong comparison."""
    return if_range is None or if_range.strip() in (etag, last_modified)


def http_date(moment: datetime) -> str:
    """Return a moment as an HTTP date (RFC 9110, section 5.6.7)."""
    return format_datetime(moment.astimezone(UTC), usegmt=True)


def attachment(name: str) -> str:
    """Return a Content-Disposition that saves a file under its name (RFC 6266, with the encoding of RFC 8187).

    A name that is not plain ASCII is sent as `filename*`, and in an ASCII form as `filename` for programs that do not know
    the former, as RFC 6266 (appendix D) advises.
    """
    if _PLAIN_NAME.fullmatch(name):
        return f'attachment; filename="{name}"'
    letters = "".join(c for c in unicodedata.normalize("NFKD", name) if not unicodedata.combining(c))
    plain = re.sub(r'[^ -~]|["\\%/]', "_", letters)
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe='!#$&+-.^_`|~')}"
