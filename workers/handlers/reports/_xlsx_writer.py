"""XLSX in constant memory: numbers, dates and truth values as such, and every text as a text."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime, time
from decimal import Decimal
from pathlib import Path
from typing import Any, BinaryIO

import xlsxwriter
from xlsxwriter.worksheet import Worksheet

from workers.handlers.reports import _problems
from workers.handlers.reports._values import (
    EXACT_DIGITS,
    Column,
    fits_a_double,
    text_of_float,
    text_of_nested,
    text_of_other,
)

SHEET_ROWS = 1_048_576
SHEET_COLUMNS = 16_384
CELL_CHARACTERS = 32_767
"""The bounds of a sheet (Microsoft, Excel specifications and limits); characters are UTF-16 units."""
SHEET_NAME_CHARACTERS = 31
FIRST_DATE = date(1900, 3, 1)
"""Excel takes 1900 for a leap year, so that readers differ about the days before this one."""
LAST_MOMENT = datetime(9999, 12, 31, 23, 59, 59, 999_000)  # noqa: DTZ001
"""What comes later, such as the `infinity` of timestamps, rounds to a year that a sheet does not know."""
EXACT_INTEGER = 10**EXACT_DIGITS - 1
WORK_FOLDER = Path("xlsx")
ROWS_BETWEEN_SIZE_CHECKS = 10_000
WIDEST_CHARACTERS = 40


class PlainWorksheet(Worksheet):  # type: ignore[misc]  # XlsxWriter has no types.
    """A sheet on which a text is a text.

    In constant memory, XlsxWriter takes a text from `<r>` to `</r>` for rich text of its own making and writes it
    unescaped, so that a cell of an uploaded table could hold any XML, formulas included.
    """

    def _xml_rich_inline_string(self, string: str, attributes: Sequence[tuple[str, object]] = ()) -> None:
        self._xml_inline_string(string, True, attributes)


class XlsxWriter:
    """Writes rows at once, and keeps one in memory. The sheets are uncompressed files in the working folder until the end."""

    def __init__(self, file: BinaryIO, columns: Sequence[Column], title: str | None, max_bytes: int) -> None:
        if len(columns) > SHEET_COLUMNS:
            raise _problems.report_too_large(
                "xlsx_columns", SHEET_COLUMNS, f"An XLSX sheet holds {SHEET_COLUMNS:,} columns at most."
            )
        WORK_FOLDER.mkdir(exist_ok=True)
        self._columns = columns
        self.max_bytes = max_bytes
        self._workbook = xlsxwriter.Workbook(
            file,
            {
                "constant_memory": True,
                "tmpdir": str(WORK_FOLDER),
                "strings_to_formulas": False,
                "strings_to_urls": False,
                "strings_to_numbers": False,
            },
        )
        if title:
            self._workbook.set_properties({"title": _without_controls(title)})
        self._bold = self._workbook.add_format({"bold": True})
        self._date = self._workbook.add_format({"num_format": "yyyy-mm-dd"})
        self._datetime = self._workbook.add_format({"num_format": "yyyy-mm-dd hh:mm:ss"})
        self._time = self._workbook.add_format({"num_format": "hh:mm:ss"})
        self._decimals: dict[int, Any] = {}
        self._cell_writers: dict[type, Callable[[int, int, Any], None]] = {
            type(None): lambda row, column, value: None,
            bool: self._write_bool,
            int: self._write_int,
            float: self._write_float,
            Decimal: self._write_decimal,
            str: self._write_text,
            date: self._write_date,
            datetime: self._write_datetime,
            time: self._write_time,
        }
        self._sheet_name = safe_sheet_name(title)
        self._sheet_count = 0
        self._rows_since_check = 0
        self._start_sheet()

    def write(self, rows: Sequence[Sequence[Any]]) -> None:
        """Append rows. Raises `/problems/report-too-large`."""
        writers, write_other = self._cell_writers, self._write_other
        for row in rows:
            if self._row == SHEET_ROWS:
                self._end_sheet()
                self._start_sheet()
            for position, value in enumerate(row):
                writers.get(type(value), write_other)(self._row, position, value)
            self._row += 1
        self._rows_since_check += len(rows)
        if self._rows_since_check >= ROWS_BETWEEN_SIZE_CHECKS:
            self._rows_since_check = 0
            self._check_size()

    def finish(self) -> None:
        """Write the workbook with its sheets. Raises `/problems/report-too-large`."""
        self._check_size()
        self._end_sheet()
        self._workbook.close()

    def _start_sheet(self) -> None:
        self._sheet_count += 1
        name = self._sheet_name
        if self._sheet_count > 1:
            mark = f" ({self._sheet_count})"
            name = name[: SHEET_NAME_CHARACTERS - len(mark)] + mark
        self._sheet = self._workbook.add_worksheet(name, worksheet_class=PlainWorksheet)
        self._sheet.freeze_panes(1, 0)
        for position, column in enumerate(self._columns):
            width = 20 if column.type.startswith("TIMESTAMP") else 11
            self._sheet.set_column(position, position, min(WIDEST_CHARACTERS, max(width, len(column.name) + 4)))
            self._sheet.write_string(0, position, column.name, self._bold)
        self._row = 1

    def _end_sheet(self) -> None:
        if self._columns:
            self._sheet.autofilter(0, 0, max(self._row - 1, 1), len(self._columns) - 1)

    def _check_size(self) -> None:
        size = sum(path.stat().st_size for path in WORK_FOLDER.iterdir())
        if size > self.max_bytes:
            raise _problems.format_too_large("XLSX, before it is compressed", self.max_bytes)

    def _write_bool(self, row: int, column: int, value: bool) -> None:
        self._sheet.write_boolean(row, column, value)

    def _write_int(self, row: int, column: int, value: int) -> None:
        if -EXACT_INTEGER <= value <= EXACT_INTEGER:
            self._sheet.write_number(row, column, value)
        else:
            self._write_text(row, column, str(value))

    def _write_float(self, row: int, column: int, value: float) -> None:
        if math.isfinite(value):
            self._sheet.write_number(row, column, value)
        else:
            self._write_text(row, column, text_of_float(value))

    def _write_decimal(self, row: int, column: int, value: Decimal) -> None:
        if fits_a_double(value):
            self._sheet.write_number(row, column, float(value), self._decimal_format(value))
        else:
            self._write_text(row, column, f"{value:f}")

    def _decimal_format(self, value: Decimal) -> Any:
        """Return the format that shows as many digits after the point as the type has, including zeros."""
        exponent = value.as_tuple().exponent
        scale = max(0, -exponent) if isinstance(exponent, int) else 0
        if scale not in self._decimals:
            pattern = "0." + "0" * scale if scale else "0"
            self._decimals[scale] = self._workbook.add_format({"num_format": pattern})
        return self._decimals[scale]

    def _write_date(self, row: int, column: int, value: date) -> None:
        if value < FIRST_DATE:
            self._write_other(row, column, value)
        else:
            self._sheet.write_datetime(row, column, value, self._date)

    def _write_datetime(self, row: int, column: int, value: datetime) -> None:
        # A spreadsheet knows no time zones: what stands there is UTC.
        moment = value if value.tzinfo is None else value.astimezone(UTC).replace(tzinfo=None)
        if moment.date() < FIRST_DATE or moment > LAST_MOMENT:
            self._write_other(row, column, value)
        else:
            self._sheet.write_datetime(row, column, moment, self._datetime)

    def _write_time(self, row: int, column: int, value: time) -> None:
        if value.tzinfo is not None:
            self._write_other(row, column, value)
        else:
            self._sheet.write_datetime(row, column, value, self._time)

    def _write_text(self, row: int, column: int, value: str) -> None:
        if len(value) > CELL_CHARACTERS // 2 and len(value.encode("utf-16-le")) > 2 * CELL_CHARACTERS:
            raise _problems.report_too_large(
                "cell_characters",
                CELL_CHARACTERS,
                f"In XLSX a cell holds {CELL_CHARACTERS:,} characters at most, and one of the column "
                f'"{self._columns[column].name}" is longer. CSV and JSON hold it.',
            )
        self._sheet.write_string(row, column, value)

    def _write_other(self, row: int, column: int, value: object) -> None:
        nested = isinstance(value, (list, tuple, dict))
        self._write_text(row, column, text_of_nested(value) if nested else text_of_other(value))


def safe_sheet_name(title: str | None) -> str:
    """Return a name for a sheet, made from a title.

    Excel allows 31 characters, none of `[]:*?/\\`, no apostrophe at either end, and not the name History.
    """
    name = re.sub(r"[\[\]:*?/\\]", " ", _without_controls(title or ""))
    name = " ".join(name.split())
    while len(name.encode("utf-16-le")) > 2 * SHEET_NAME_CHARACTERS:
        name = name[:-1]
    name = name.strip("' ")
    return name if name and name.lower() != "history" else "Report"


def _without_controls(text: str) -> str:
    return "".join(character if character.isprintable() else " " for character in text)
