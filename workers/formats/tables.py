"""Reads a table that a caller uploaded: CSV, JSON or Parquet. All kinds that read tables read them here.

The steps, in a limited child:

1. `prepare_table` finds the encoding and the layout, and prepares the file so that DuckDB can read it: as a link, or
   as a copy in UTF-8.
2. `find_relation` returns how it is read, in SQL, for a connection that `open_sandbox` returned.
3. `explain_table_error` turns an error that DuckDB raised about it into one for the caller.

Errors name the line at fault and quote nothing of the file.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import duckdb
from duckdb.sqltypes import DuckDBPyType

from shared.media_types import HEAD_BYTES, begins_as_json
from workers.formats.csv_form import BadCsv, CsvForm, find_csv_fault, find_csv_form, find_long_row, rewrite_line_ends
from workers.formats.duckdb_errors import find_resource_failure
from workers.formats.duckdb_sandbox import quote_identifier, quote_literal
from workers.formats.encodings import Encoding, NotText, find_encoding, read_text
from workers.formats.json_faults import find_json_fault, may_be_accepted_though_invalid
from workers.formats.problems import NEITHER_TEXT_NOR_PARQUET, unreadable_table
from workers.formats.table_readers import (
    find_csv_reader,
    find_exceeded_line_bytes,
    find_exceeded_value_bytes,
    find_json_reader,
)
from workers.outcomes import Failed

SCANNED_PIECE_BYTES = 1 << 19
"""A line of more than 1 MiB has a whole piece without a line end in it."""
WHOLE_SAMPLE_BYTES = 256 << 20
"""Up to this size the types of columns are found from every row, so that no later one can contradict them.

DuckDB holds the whole file in memory meanwhile, which counts against its limit.
"""
TYPE_SAMPLE_ROWS = 100_000
"""In a larger file, types are found from so many rows."""

MAX_COPIED_BYTES = 1 << 30
"""A file that is copied takes its size again, and more, of the scratch folder."""

Shape = Literal["csv", "json", "parquet"]


@dataclass(frozen=True)
class Table:
    """A table that is prepared for DuckDB."""

    path: Path
    """Relative to the working folder, so that messages of DuckDB do not contain the path of that folder."""
    shape: Shape
    source: str | None
    """The name that a report gives to the file."""
    encoding: Encoding | None = None
    """None for Parquet."""
    csv_form: CsvForm | None = None
    has_long_lines: bool = False
    """Whether a line may be longer than DuckDB reads unless it is told to: about 2 MB."""
    header: bool = True
    """Whether the first row of CSV holds the names of the columns."""


def prepare_table(
    file: Path,
    target: Path,
    media_type: str,
    *,
    header: bool = True,
    encoding: str | None = None,
    source: str | None = None,
) -> Table:
    """Link or copy a file to `target`, to which an extension is added, and return how it is to be read.

    `encoding` is a label that `shared.contracts.text_encodings` knows; without one the encoding is found. A file is JSON by its
    media type, or because it begins as JSON; other text is CSV.

    Raises `Failed` (`/problems/unreadable-table`).
    """
    if _is_parquet(file):
        return Table(_link(file, target.with_suffix(".parquet")), "parquet", source)
    try:
        found = find_encoding(file, encoding)
    except NotText as error:
        reason = error.reason if encoding is not None else NEITHER_TEXT_NOR_PARQUET
        raise unreadable_table(reason, source) from None
    head = next((piece for piece in read_text(file, found) if piece), "")[:HEAD_BYTES]
    shape: Shape = "json" if "json" in media_type or begins_as_json(head) else "csv"
    path = target.with_suffix(f".{shape}")
    # DuckDB takes a byte order mark before a JSON array for a row that is no object.
    if found == Encoding("utf-8"):
        _link(file, path)
    else:
        _copy_as_utf8(file, found, path, source)
    line_ends = _find_line_ends(path, source)
    table = Table(path, shape, source, found, has_long_lines=line_ends.has_long_lines, header=header)
    if shape == "json":
        _refuse_unfinished_array(table)
        _refuse_what_duckdb_accepts(table)
        return table
    return _settle_csv_form(table, mixed_line_ends=len(line_ends.kinds) > 1)


def find_relation(connection: duckdb.DuckDBPyConnection, table: Table) -> str:
    """Return the SQL that follows `FROM` to read the table. Raises `duckdb.Error`.

    Values of DuckDB's type JSON, which columns of mixed values have, are read as VARIANT at any depth: JSON is kept as
    its source text, so a string would have quotation marks and could not be compared with other strings.
    """
    sample = -1 if table.path.stat().st_size <= WHOLE_SAMPLE_BYTES else TYPE_SAMPLE_ROWS
    if table.shape == "parquet":
        reader = f"read_parquet({quote_literal(str(table.path))})"
    elif table.shape == "json":
        reader = find_json_reader(connection, table.path, sample=sample)
    else:
        assert table.csv_form is not None, "prepare_table has found it"
        reader = find_csv_reader(
            connection,
            table.path,
            table.csv_form,
            header=table.header,
            sample=sample,
            has_long_lines=table.has_long_lines,
        )
    casts = []
    for name, column_type, *_ in connection.execute(f"FROM {reader} LIMIT 0").description or ():
        variant = _with_variant(column_type)
        if variant != str(column_type):
            column = quote_identifier(name)
            casts.append(f"CAST({column} AS {variant}) AS {column}")
    return f"(SELECT * REPLACE ({', '.join(casts)}) FROM {reader})" if casts else reader  # noqa: S608


def explain_table_error(error: duckdb.Error, table: Table) -> Failed:
    """Return the `Failed` for an error that DuckDB raised while it read the table."""
    if (failure := find_resource_failure(error)) is not None:
        return failure
    return unreadable_table(_find_reason(error, table), table.source)


def _find_reason(error: duckdb.Error, table: Table) -> str:
    if table.shape == "parquet":
        return "it is damaged or cut short, or its Parquet uses a feature that is not supported."
    if table.shape == "json":
        if (most_bytes := find_exceeded_value_bytes(error)) is not None:
            return f"one value of its JSON has more than {most_bytes >> 20} MiB."
        return find_json_fault(table.path) or "the values of its JSON do not fit each other."
    assert table.csv_form is not None, "prepare_table has found it"
    if (most_bytes := find_exceeded_line_bytes(error)) is not None:
        line = find_long_row(table.path, table.csv_form, most_bytes)
        return f"{'one of its rows' if line is None else f'line {line}'} has more than {most_bytes:,} bytes."
    if (fault := find_csv_fault(table.path, table.csv_form)) is not None:
        return fault
    if isinstance(error, duckdb.ConversionException) and table.path.stat().st_size > WHOLE_SAMPLE_BYTES:
        return f"a value behind the first {TYPE_SAMPLE_ROWS:,} rows is not of the type that these have."
    return "it is no CSV that can be read."


def _settle_csv_form(table: Table, *, mixed_line_ends: bool) -> Table:
    try:
        form = find_csv_form(table.path)
        if mixed_line_ends:
            # DuckDB reads rows that end alike. Whether only quoted cells differ is not worth another pass to find out.
            rewritten = table.path.with_name(f"{table.path.stem}-rewritten.csv")
            rewrite_line_ends(table.path, form, rewritten)
            rewritten.replace(table.path)
    except BadCsv as error:
        raise unreadable_table(error.reason, table.source) from None
    return replace(table, csv_form=form)


def _link(file: Path, target: Path) -> Path:
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    target.symlink_to(file.resolve())
    return target


def _copy_as_utf8(file: Path, encoding: Encoding, target: Path, source: str | None) -> None:
    if file.stat().st_size > MAX_COPIED_BYTES:
        raise unreadable_table("text of more than 1 GiB must be UTF-8, without a byte order mark.", source)
    target.parent.mkdir(parents=True, exist_ok=True)
    # Never through a link to the uploaded file.
    target.unlink(missing_ok=True)
    with target.open("w", encoding="utf-8", errors="replace", newline="") as copy:
        for piece in read_text(file, encoding):
            copy.write(piece)


def _is_parquet(path: Path) -> bool:
    """Return whether the file begins with one of Parquet's magic numbers (Parquet format, File Format)."""
    with path.open("rb") as file:
        return file.read(4) in (b"PAR1", b"PARE")


@dataclass(frozen=True)
class _LineEnds:
    kinds: frozenset[bytes]
    has_long_lines: bool


def _find_line_ends(path: Path, source: str | None) -> _LineEnds:
    """Return the line ends of a file. Raises `/problems/unreadable-table` for a null, which no text has."""
    kinds: set[bytes] = set()
    before, has_long_lines = b"", False
    with path.open("rb") as file:
        while piece := file.read(SCANNED_PIECE_BYTES):
            if b"\0" in piece:
                raise unreadable_table(NEITHER_TEXT_NOR_PARQUET, source)
            piece, before = before + piece, b""
            if piece.endswith(b"\r"):
                # Its line feed may stand in the next piece.
                piece, before = piece[:-1], b"\r"
            found = _list_line_ends(piece)
            has_long_lines = has_long_lines or (not found and len(piece) >= SCANNED_PIECE_BYTES)
            kinds |= found
    return _LineEnds(frozenset(kinds | ({b"\r"} if before else set())), has_long_lines)


def _list_line_ends(piece: bytes) -> set[bytes]:
    returns, feeds, pairs = piece.count(b"\r"), piece.count(b"\n"), piece.count(b"\r\n")
    counts = {b"\r": returns - pairs, b"\n": feeds - pairs, b"\r\n": pairs}
    return {line_end for line_end, count in counts.items() if count}


def _refuse_unfinished_array(table: Table) -> None:
    """Raise `/problems/unreadable-table` for a JSON array without its last bracket.

    DuckDB takes one that is cut off behind a comma for a whole one.
    """
    with table.path.open("rb") as file:
        if not file.read(SCANNED_PIECE_BYTES).lstrip().startswith(b"["):
            return
        file.seek(max(0, table.path.stat().st_size - SCANNED_PIECE_BYTES))
        if not file.read().rstrip().endswith((b"]", b"}")):
            raise unreadable_table(find_json_fault(table.path) or "its JSON array has no end.", table.source)


def _refuse_what_duckdb_accepts(table: Table) -> None:
    """Raise `/problems/unreadable-table` for a trailing comma, and for `NaN` and `Infinity`, which are no JSON."""
    if may_be_accepted_though_invalid(table.path) and (fault := find_json_fault(table.path)) is not None:
        raise unreadable_table(fault, table.source)


def _with_variant(column_type: DuckDBPyType) -> str:
    """Return a type, in SQL, with VARIANT in place of JSON."""
    if str(column_type) == "JSON":
        return "VARIANT"
    if "JSON" not in str(column_type):
        return str(column_type)
    inner = [(name, _with_variant(child)) for name, child in column_type.children if isinstance(child, DuckDBPyType)]
    match column_type.id:
        case "list":
            return f"{inner[0][1]}[]"
        case "array":
            size = next(size for name, size in column_type.children if name == "size")
            return f"{inner[0][1]}[{size}]"
        case "map":
            return f"MAP({inner[0][1]}, {inner[1][1]})"
        case "struct":
            return f"STRUCT({', '.join(f'{quote_identifier(name)} {child}' for name, child in inner)})"
        case _:
            return str(column_type)
