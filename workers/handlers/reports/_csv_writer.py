"""Writes CSV after RFC 4180 that is safe to open in a spreadsheet."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any, BinaryIO

from shared.csv_text import csv_text
from workers.handlers.reports import _problems
from workers.handlers.reports._values import (
    Column,
    FarMoment,
    text_of_date_or_time,
    text_of_float,
    text_of_nested,
    text_of_other,
)


class CsvWriter:
    """Writes rows at once, and keeps none in memory."""

    def __init__(self, file: BinaryIO, columns: Sequence[Column], title: str | None, max_bytes: int) -> None:
        self._file = file
        self._max_bytes = max_bytes
        self._size = 0
        self._append([[csv_text(column.name) for column in columns]])

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


def text_of_anything(value: object) -> str:
    """Return the cell of a value of any other type."""
    if isinstance(value, (list, tuple, dict)):
        return csv_text(text_of_nested(value))
    return csv_text(text_of_other(value))


FORMATTERS: dict[type, Callable[[Any], str]] = {
    type(None): lambda value: "",
    bool: lambda value: "true" if value else "false",
    int: str,
    float: text_of_float,
    Decimal: lambda value: f"{value:f}",
    str: csv_text,
    date: date.isoformat,
    # Spreadsheets recognize a date with a time by a space in place of the `T`.
    datetime: lambda value: text_of_date_or_time(value, " "),
    FarMoment: lambda value: value.isoformat(" "),
    time: time.isoformat,
}
