"""The child's side of `files.inspect` for tables: DuckDB reads them, without access to anything but the one file."""

from __future__ import annotations

import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb

from workers.formats.duckdb_sandbox import open_sandbox, quote_identifier
from workers.formats.problems import unreadable_table
from workers.formats.table_readers import describe_relation
from workers.formats.tables import Table, explain_table_error, find_relation, prepare_table

MAX_COLUMNS = 5_000
THREADS = 2
SPILL_BYTES = 1 << 30
DUCKDB_OWN_BYTES = 5 << 28
"""Address space that DuckDB takes beside what its `memory_limit` counts: 1.25 GiB, with two threads."""

MIN_MEMORY_BYTES = 128 << 20
_TABLE = Path("table")


def run_in_child(request: dict[str, Any], report_progress: Callable[[int, str | None], None]) -> dict[str, Any]:
    """Return the number of rows, and the names, types and missing values of the columns, of the table at `path`.

    `media_type` is its media type; `header` and `encoding` are those of the params. The working folder takes a link to
    the table, or a copy in UTF-8. Raises `/problems/unreadable-table`.
    """
    table = prepare_table(
        Path(request["path"]),
        _TABLE,
        request["media_type"],
        header=request["header"],
        encoding=request["encoding"],
    )
    connection = open_sandbox([table.path], memory_bytes=_memory_bytes(), spill_bytes=SPILL_BYTES, threads=THREADS)
    try:
        return _describe(connection, table)
    except duckdb.Error as error:
        raise explain_table_error(error, table) from error


def _memory_bytes() -> int:
    address_space, _ = resource.getrlimit(resource.RLIMIT_AS)
    if address_space == resource.RLIM_INFINITY:
        return 1 << 30
    return max(MIN_MEMORY_BYTES, address_space - DUCKDB_OWN_BYTES)


def _describe(connection: duckdb.DuckDBPyConnection, table: Table) -> dict[str, Any]:
    relation = find_relation(connection, table)
    columns = describe_relation(connection, relation)
    if len(columns) > MAX_COLUMNS:
        raise unreadable_table(f"it has more than {MAX_COLUMNS:,} columns.")
    counts = ", ".join(["count(*)", *(f"count({quote_identifier(name)})" for name, _ in columns)])
    row = connection.execute(f"SELECT {counts} FROM {relation}").fetchone()  # noqa: S608
    assert row is not None, "an aggregate without groups has one row"
    rows, *present = row
    return {
        "rows": rows,
        "columns": [
            {"name": name, "type": column_type, "nulls": rows - count}
            for (name, column_type), count in zip(columns, present, strict=True)
        ],
        "encoding": table.encoding and table.encoding.iana_name,
        "replaced_bytes": table.encoding.replaced_bytes if table.encoding else 0,
    }
