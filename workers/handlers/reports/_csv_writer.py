"""Writes CSV after RFC 4180 that is safe to open in a spreadsheet."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any, BinaryIO

from workers.handlers.reports import _problems
from workers.handlers.reports._values import (
    Column,
    FarMoment,
    text_of_date_or_time,
    text_of_float,
    text_of_nested,
    text_of_other,
)

FORMULA_STARTS = frozenset("=+-@\t\r\n＝＋－＠")
"""Characters that a spreadsheet may take for the start of a formula (OWASP, CSV Injection)."""
NUMBER = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?")
MUST_BE_QUOTED = re.compile(r'[",;\x00-\x1f\x7f\x85\u2028\u2029]|^ | $')
"""More than RFC 4180 requires: a semicolon or a tab is a separator in some countries' spreadsheets, and some readers take
other control characters for the end of a line."""


class CsvWriter:
    """Writes rows at once, and keeps none in memory."""

    def __init__(self, file: BinaryIO, columns: Sequence[Column], title: str | None, max_bytes: int) -> None:
        self._file = file
        self._max_bytes = max_bytes
        self._size = 0
        self._append([[text_of_text(column.name) for column in columns]])

    def write(self, rows: Sequence[Sequence[Any]]) -> None:
        """Append rows. Raises `/problems/report-too-large`."""
        formatters = FORMATTERS
        self._append([[formatters.get(type(value), text_of_anything)(value) for value in row] for row in rows])

    def finish(self) -> None:
        """Complete the file: CSV needs no end."""

    def _append(self, rows: list[list[str]]) -> None:
        block = "".join([",".join(row) + "\r\n" for row in rows]).encode()
        self._size += len(block)
        if self._size > self._max_bytes:
            raise _problems.format_too_large("CSV", self._max_bytes)
        self._file.write(block)


def text_of_text(value: str) -> str:
    """Return the cell of a text: quoted where needed, and with an apostrophe before what might be taken for a formula."""
    if not value:
        return '""'
    if value[0] in FORMULA_STARTS and not NUMBER.fullmatch(value):
        return "\"'" + value.replace('"', '""') + '"'
    if MUST_BE_QUOTED.search(value):
        return '"' + value.replace('"', '""') + '"'
    return value


def text_of_anything(value: object) -> str:
    """Return the cell of a value of any other type."""
    if isinstance(value, (list, tuple, dict)):
        return text_of_text(text_of_nested(value))
    return text_of_text(text_of_other(value))


FORMATTERS: dict[type, Callable[[Any], str]] = {
    type(None): lambda value: "",
    bool: lambda value: "true" if value else "false",
    int: str,
    float: text_of_float,
    Decimal: lambda value: f"{value:f}",
    str: text_of_text,
    date: date.isoformat,
    # Spreadsheets recognize a date with a time by a space in place of the `T`.
    datetime: lambda value: text_of_date_or_time(value, " "),
    FarMoment: lambda value: value.isoformat(" "),
    time: time.isoformat,
}
