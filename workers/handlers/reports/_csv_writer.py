"""CSV after RFC 4180, safe to open in a spreadsheet."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any, BinaryIO

from workers.handlers.reports import _limits, _problems
from workers.handlers.reports._values import (
    Column,
    text_of_date_or_time,
    text_of_float,
    text_of_nested,
    text_of_other,
)

FORMULA_STARTS = frozenset("=+-@\t\r\n＝＋－＠")
"""What a spreadsheet may take for the start of a formula (OWASP, CSV Injection)."""
NUMBER = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?")
MUST_BE_QUOTED = re.compile(r'[",;\t\r\n]|^ | $')
"""More than RFC 4180 asks: a semicolon or a tab is a separator in some countries' spreadsheets."""


class CsvWriter:
    """Writes rows as they come; holds none."""

    def __init__(self, file: BinaryIO, columns: Sequence[Column], title: str | None) -> None:
        self._file = file
        self._size = 0
        self._append([[text_of_text(column.name) for column in columns]])

    def write(self, rows: Sequence[Sequence[Any]]) -> None:
        """Append rows. Raises `/problems/report-too-large`."""
        formatters = FORMATTERS
        self._append([[formatters.get(type(value), text_of_anything)(value) for value in row] for row in rows])

    def finish(self) -> None:
        """Write what must come last: nothing."""

    def _append(self, rows: list[list[str]]) -> None:
        block = "".join([",".join(row) + "\r\n" for row in rows]).encode()
        self._size += len(block)
        if self._size > _limits.MAX_FORMAT_BYTES:
            raise _problems.report_too_large(
                "bytes", _limits.MAX_FORMAT_BYTES, f"As CSV, the report exceeds {_limits.MAX_FORMAT_BYTES:,} bytes."
            )
        self._file.write(block)


def text_of_text(value: str) -> str:
    """Give a text as a cell: quoted where needed, and with an apostrophe before what might be taken for a formula."""
    if not value:
        return '""'
    if value[0] in FORMULA_STARTS and not NUMBER.fullmatch(value):
        return "\"'" + value.replace('"', '""') + '"'
    if MUST_BE_QUOTED.search(value):
        return '"' + value.replace('"', '""') + '"'
    return value


def text_of_anything(value: object) -> str:
    """Give any other value as a cell."""
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
    # The space in place of the `T` is what spreadsheets know as a date with a time.
    datetime: lambda value: text_of_date_or_time(value, " "),
    time: time.isoformat,
}
