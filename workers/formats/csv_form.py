"""Finds how a CSV file is laid out: its separator, the lines before its table, and the lines that do not fit.

DuckDB chooses the layout that fits most lines, and so may skip a title, or read a header as a row. Here no line is skipped
silently: each line must have as many cells as the first one, which is the header unless the caller says that there is
none.
"""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TextIO

SEPARATORS = (",", ";", "\t", "|")
NO_SEPARATOR = "\x1f"
"""The separator of a table with a single column: a control character that does not occur in CSV files."""

FORM_SAMPLE_ROWS = 1_000
SAMPLE_CHARACTERS = 4 << 20
MAX_CELL_CHARACTERS = 1 << 30
"""For Python's reader; DuckDB's bound on a line is smaller."""

_SEPARATOR_LINE = re.compile(r'"?sep=([^"\r\n])"?\s*', re.IGNORECASE)
"""What Excel reads and writes as the first line, to name the separator. It is no data."""

_DECIMAL_COMMA = re.compile(r"\s*[+-]?[0-9]+,[0-9]+\s*")


class BadCsv(Exception):
    """The file is no CSV table. `reason` is the rest of a sentence that names the line and quotes nothing."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True)
class CsvForm:
    """The layout of a CSV file."""

    separator: str
    skipped_lines: int
    """How many lines come before the table: empty ones, and one such as `sep=;`."""


@dataclass(frozen=True)
class _Row:
    line: int
    """The number of its first line in the file, from 1."""
    cells: list[str]


def find_csv_form(path: Path) -> CsvForm:
    """Return the layout of a CSV file in UTF-8, found from its first rows.

    Of the separators, the one is taken that gives every row the same number of cells, more than one; of several such,
    the one with the most cells. If none does, but one parts most of the rows, the file is a table in which the others
    do not fit. Otherwise it has a single column.

    Raises `BadCsv` for a row with another number of cells than the first one has.
    """
    skipped_lines, separator = _read_preamble(path)
    if separator is None:
        separator = _find_separator(path, skipped_lines)
    form = CsvForm(separator, skipped_lines)
    _require_equal_widths(_sample_rows(path, form))
    return form


def find_csv_fault(path: Path, form: CsvForm) -> str | None:
    """Return what is wrong with a CSV file, naming the first line at fault, or None. Reads all of it."""
    try:
        _require_equal_widths(_read_rows(path, form))
    except BadCsv as error:
        return error.reason
    return None


def find_long_row(path: Path, form: CsvForm, most_bytes: int) -> int | None:
    """Return the line of the first row with more bytes than that, without its quotation marks, or None."""
    try:
        for row in _read_rows(path, form):
            if len(form.separator.join(row.cells).encode()) > most_bytes:
                return row.line
    except BadCsv:
        pass
    return None


def rewrite_line_ends(path: Path, form: CsvForm, target: Path) -> CsvForm:
    """Write the table with CR LF at the end of each row, and return the layout of what was written.

    Line ends within quoted cells stay as they are. Raises `BadCsv`.
    """
    with target.open("w", encoding="utf-8", newline="") as out:
        # Python's writer quotes a cell for a CR or LF in it only if its own line ends hold that character.
        writer = csv.writer(out, delimiter=form.separator, lineterminator="\r\n")
        out.write("\r\n" * form.skipped_lines)
        writer.writerows(row.cells for row in _read_rows(path, form))
    return form


def _read_preamble(path: Path) -> tuple[int, str | None]:
    """Return how many lines come before the table, and the separator if one of them names it."""
    skipped, separator = 0, None
    with _open(path) as stream:
        for line in stream:
            named = _SEPARATOR_LINE.fullmatch(line) if separator is None else None
            if named:
                separator = named[1]
            elif line.strip("\r\n"):
                break
            skipped += 1
    return skipped, separator


def _find_separator(path: Path, skipped_lines: int) -> str:
    widths = {
        separator: [len(row.cells) for row in _sample_rows(path, CsvForm(separator, skipped_lines), lenient=True)]
        for separator in SEPARATORS
    }
    regular = [separator for separator in SEPARATORS if len(set(widths[separator])) == 1 and widths[separator][0] > 1]
    if regular:
        return max(regular, key=lambda separator: (widths[separator][0], -_count_leading_spaces(path, separator)))
    in_first = [separator for separator in SEPARATORS if widths[separator] and widths[separator][0] > 1]
    if in_first:
        return max(in_first, key=lambda separator: (_count_usual(widths[separator]), widths[separator][0]))
    parting = [separator for separator in SEPARATORS if _parts_most(widths[separator][1:])]
    if "," in parting and _is_column_of_decimals(path, skipped_lines):
        parting.remove(",")
    return max(parting, key=lambda separator: _count_usual(widths[separator])) if parting else NO_SEPARATOR


def _parts_most(widths: list[int]) -> bool:
    """Return whether the rows are those of a table, be it below a title: half of them, or the last ones, are alike."""
    several = [width for width in widths if width > 1]
    if not several:
        return False
    if 2 * _count_usual(several) >= len(widths):
        return True
    return len(widths) > 1 and widths[-1] == widths[-2] > 1


def _count_usual(widths: list[int]) -> int:
    """Return how many rows have the commonest number of cells of those that have several."""
    counts = Counter(width for width in widths if width > 1)
    return max(counts.values(), default=0)


def _count_leading_spaces(path: Path, separator: str) -> int:
    """Return how often a space follows the separator in the first rows, as a comma is followed in sentences."""
    with _open(path) as stream:
        return stream.read(SAMPLE_CHARACTERS // 64).count(separator + " ")


def _is_column_of_decimals(path: Path, skipped_lines: int) -> bool:
    rows = _sample_rows(path, CsvForm(NO_SEPARATOR, skipped_lines), lenient=True)
    next(rows, None)
    return all(_DECIMAL_COMMA.fullmatch(row.cells[0]) for row in rows)


def _require_equal_widths(rows: Iterator[_Row]) -> None:
    first = next(rows, None)
    if first is None:
        return
    for row in rows:
        if len(row.cells) != len(first.cells):
            cells = "1 cell" if len(row.cells) == 1 else f"{len(row.cells)} cells"
            raise BadCsv(f"line {row.line} has {cells}, and the first has {len(first.cells)}.")


def _sample_rows(path: Path, form: CsvForm, lenient: bool = False) -> Iterator[_Row]:
    """Yield the first rows, a thousand at most. Raises `BadCsv` unless `lenient`, which ends at what cannot be read."""
    characters = 0
    try:
        for row in islice(_read_rows(path, form), FORM_SAMPLE_ROWS):
            yield row
            characters += sum(map(len, row.cells))
            if characters > SAMPLE_CHARACTERS:
                return
    except BadCsv:
        if not lenient:
            raise


def _read_rows(path: Path, form: CsvForm) -> Iterator[_Row]:
    """Yield the rows that are not empty, as RFC 4180 parts them, whichever ends the lines have. Raises `BadCsv`."""
    csv.field_size_limit(MAX_CELL_CHARACTERS)
    with _open(path) as stream:
        for _ in islice(stream, form.skipped_lines):
            pass
        rows = csv.reader(stream, delimiter=form.separator, strict=True)
        line = form.skipped_lines + 1
        try:
            for cells in rows:
                if cells:
                    yield _Row(line, cells)
                line = form.skipped_lines + rows.line_num + 1
        except csv.Error as error:
            if "unexpected end of data" in str(error):
                raise BadCsv(f"line {line} is not CSV: a quoted cell that begins there has no end.") from None
            raise BadCsv(
                f"line {line} is not CSV: a quoted cell is followed by text in place of a separator."
            ) from None


def _open(path: Path) -> TextIO:
    return path.open(encoding="utf-8-sig", newline="")
