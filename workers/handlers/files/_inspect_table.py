"""The child's side of `files.inspect` for tables: DuckDB reads them, shut off from all but the one file."""

from __future__ import annotations

import csv
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb

from workers.formats.encodings import find_encoding, read_text
from workers.formats.problems import unreadable_table
from workers.formats.table_readers import find_csv_reader, find_exceeded_bytes, find_json_reader

MOST_COLUMNS = 5_000
DUCKDB_OWN_BYTES = 5 << 28
"""Address space that DuckDB takes beside what its `memory_limit` counts: 1.25 GiB, with two threads."""

LEAST_MEMORY_LIMIT = 128 << 20
_NULLS = "['', 'NA']"
"""What stands for no value in CSV, as a list in SQL: nothing, and what R writes."""

WHOLE_SNIFF_BYTES = 64 << 20
"""Up to this size the types of columns are found from every row, so that no later one can contradict them."""

SNIFF_ROWS = 100_000
"""In a larger file, from so many rows."""

_END_BYTES = 1 << 16
"""How much of a file's ends is looked at for what is no white space."""

_SEPARATORS = ",;\t|"
_TABLE = "table"


def run_in_child(request: dict[str, Any], report_progress: Callable[[int, str | None], None]) -> dict[str, Any]:
    """Count the rows and the missing values, and tell the types, of the table at `path`, of type `media_type`.

    The working folder takes a link to the table, or a copy in UTF-8 where it is text in another encoding.
    """
    media_type = request["media_type"]
    Path(_TABLE).unlink(missing_ok=True)
    if media_type == "application/vnd.apache.parquet":
        Path(_TABLE).symlink_to(request["path"])
    else:
        _bring_as_utf8(request["path"])
    if media_type == "application/json" and _is_cut_array():
        raise unreadable_table("The JSON array has no end.")
    try:
        return _describe(media_type)
    except duckdb.OutOfMemoryException:
        raise MemoryError from None
    except duckdb.Error as error:
        if (most_bytes := find_exceeded_bytes(error)) is not None:
            raise unreadable_table(f"A value of the JSON has more than {most_bytes >> 20} MiB.") from None
        # The message quotes rows, which are not for logs and errors.
        raise unreadable_table("The table is damaged, or its rows do not fit each other.") from None


def _bring_as_utf8(path: str) -> None:
    encoding = find_encoding(path)
    if encoding == "utf-8":
        Path(_TABLE).symlink_to(path)
        return
    # A byte order mark goes too: DuckDB takes one before a JSON array for a row that is no object.
    with Path(_TABLE).open("w", encoding="utf-8", newline="") as copy:
        for piece in read_text(path, encoding, errors="replace"):
            copy.write(piece)


def _is_cut_array() -> bool:
    """Whether a JSON array lacks its last bracket. One that is cut off behind a comma is whole to DuckDB."""
    with Path(_TABLE).open("rb") as file:
        if not file.read(_END_BYTES).lstrip().startswith(b"["):
            return False
        file.seek(max(0, Path(_TABLE).stat().st_size - _END_BYTES))
        return not file.read().rstrip().endswith((b"]", b"}"))


def _describe(media_type: str) -> dict[str, Any]:
    connection = duckdb.connect(
        config={
            "threads": 2,
            # Each such thread takes 8 MiB of the child's address space for its stack; local files need few.
            "async_threads": 2,
            "memory_limit": f"{_memory_limit()}B",
            "temp_directory": "spill",
            "max_temp_directory_size": "1GiB",
            "autoinstall_known_extensions": False,
            "autoload_known_extensions": False,
            "preserve_insertion_order": False,
        }
    )
    connection.execute(f"SET allowed_paths = ['{_TABLE}']")
    connection.execute("SET enable_external_access = false")
    connection.execute("SET lock_configuration = true")
    if media_type == "application/vnd.apache.parquet":
        return _count(connection, f"read_parquet('{_TABLE}')")
    sample = -1 if Path(_TABLE).stat().st_size <= WHOLE_SNIFF_BYTES else SNIFF_ROWS
    if media_type == "application/json":
        return _count(connection, find_json_reader(connection, Path(_TABLE), f"sample_size = {sample}"))
    # Left to itself, DuckDB skips leading lines and comments that do not fit the rest, and so loses rows in silence.
    options = """skip = 0, comment = '', quote = '"', escape = '"', null_padding = false, ignore_errors = false"""
    arguments = f"'{_TABLE}', nullstr = {_NULLS}, sample_size = {sample}, {options}"
    table = _count(connection, find_csv_reader(connection, arguments))
    if len(table["columns"]) == 1:
        _refuse_ragged_rows(table["columns"][0]["name"])
    return table


def _refuse_ragged_rows(only_column: str) -> None:
    """Raise `/problems/unreadable-table` for rows of unequal length, where DuckDB takes each for a single cell."""
    separator = max(_SEPARATORS, key=only_column.count)
    if separator not in only_column:
        return
    with Path(_TABLE).open(encoding="utf-8-sig", newline="") as stream:
        try:
            widths = (len(row) for row in csv.reader(stream, delimiter=separator, strict=True) if row)
            first = next(widths)
            if any(width != first for width in widths):
                raise unreadable_table("The rows of the table differ in their number of cells.")
        except csv.Error:
            raise unreadable_table("The table is no CSV that can be read.") from None


def _memory_limit() -> int:
    address_space, _ = resource.getrlimit(resource.RLIMIT_AS)
    if address_space == resource.RLIM_INFINITY:
        return 1 << 30
    return max(LEAST_MEMORY_LIMIT, address_space - DUCKDB_OWN_BYTES)


def _count(connection: duckdb.DuckDBPyConnection, source: str) -> dict[str, Any]:
    described = connection.execute(f"DESCRIBE SELECT * FROM {source}").fetchall()  # noqa: S608
    # The type of what has no value anywhere is called `"NULL"`, as if it were a name.
    columns = [(str(name), str(type_).replace('"NULL"', "NULL")) for name, type_, *_ in described]
    if len(columns) > MOST_COLUMNS:
        raise unreadable_table(f"The table has more than {MOST_COLUMNS} columns.")
    counts = ", ".join(["count(*)", *(f"count({_quote(name)})" for name, _ in columns)])
    row = connection.execute(f"SELECT {counts} FROM {source}").fetchone()  # noqa: S608
    assert row is not None, "an aggregate without groups has one row"
    rows, *values = row
    return {
        "rows": rows,
        "columns": [
            {"name": name, "type": type_, "nulls": rows - present}
            for (name, type_), present in zip(columns, values, strict=True)
        ],
    }


def _quote(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
