"""The child's side of `reports.run`: open the sources, run the query once, write every format in one pass."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import duckdb

from workers.formats.duckdb_sandbox import open_sandbox
from workers.formats.tables import Table, prepare_table
from workers.handlers.reports import _limits, _problems
from workers.handlers.reports._csv_writer import CsvWriter
from workers.handlers.reports._json_writer import JsonWriter
from workers.handlers.reports._query_check import check_query
from workers.handlers.reports._query_errors import failure_of
from workers.handlers.reports._sources import FOLDER, Source, create_view
from workers.handlers.reports._values import name_columns
from workers.handlers.reports._xlsx_writer import XlsxWriter

BATCH_ROWS = 2_000
PROGRESS_SECONDS = 0.5

ReportProgress = Callable[[int, str | None], None]
Writer = CsvWriter | JsonWriter | XlsxWriter
WRITERS: dict[str, type[Writer]] = {"csv": CsvWriter, "json": JsonWriter, "xlsx": XlsxWriter}


def run_in_child(request: dict[str, Any], report_progress: ReportProgress) -> dict[str, Any]:
    """Write `report.<format>` into the working folder and return `{rows, columns, sources}`.

    The request is `{title, sources: [{name, path, media_type, header, encoding}], query, formats}`. The working folder is
    the attempt's scratch folder; DuckDB knows only paths relative to it, so that its messages cannot show where it is.
    """
    tables: dict[str, Table] = {}
    for wanted in request["sources"]:
        name = wanted["name"]
        report_progress(1, f"Reading {name}")
        tables[name] = prepare_table(
            Path(wanted["path"]),
            FOLDER / name,
            wanted["media_type"],
            header=wanted["header"],
            encoding=wanted["encoding"],
            source=name,
        )
    connection = open_sandbox(
        [table.path for table in tables.values()],
        memory_bytes=_limits.QUERY_MEMORY_BYTES,
        spill_bytes=_limits.SPILL_BYTES,
        threads=_limits.QUERY_THREADS,
    )
    sources = [create_view(connection, name, table) for name, table in tables.items()]
    try:
        check_query(connection, request["query"], list(tables))
        answer = _run(connection, request, report_progress)
    except duckdb.Error as error:
        raise failure_of(error, request["query"], sources) from error
    return answer | {"sources": [_describe_source(source) for source in sources]}


def _describe_source(source: Source) -> dict[str, Any]:
    encoding = source.table.encoding
    return {
        "name": source.name,
        "encoding": encoding and encoding.iana_name,
        "replaced_bytes": encoding.replaced_bytes if encoding else 0,
    }


def _run(
    connection: duckdb.DuckDBPyConnection,
    request: dict[str, Any],
    report_progress: ReportProgress,
) -> dict[str, Any]:
    # No SELECT can write, but a transaction that refuses writes does not depend on knowing every form of SELECT.
    connection.execute("BEGIN TRANSACTION READ ONLY")
    with _reporting(connection, report_progress) as tell, ExitStack() as cleanup:
        connection.execute(request["query"])
        columns = name_columns(connection.description or [])
        if len(columns) > _limits.MAX_COLUMNS:
            raise _problems.report_too_large(
                "columns",
                _limits.MAX_COLUMNS,
                f"The report has {len(columns)} columns of {_limits.MAX_COLUMNS} at most.",
            )
        writers = [
            WRITERS[name](cleanup.enter_context(Path(f"report.{name}").open("wb")), columns, request["title"])
            for name in request["formats"]
        ]
        rows = _write_rows(connection, writers, tell)
        tell(f"Finishing, {rows:,} rows")
        for writer in writers:
            writer.finish()
    report_progress(99, f"{rows:,} rows")
    return {"rows": rows, "columns": [{"name": column.name, "type": column.type} for column in columns]}


def _write_rows(connection: duckdb.DuckDBPyConnection, writers: list[Writer], tell: Callable[[str], None]) -> int:
    count = 0
    while rows := connection.fetchmany(BATCH_ROWS):
        count += len(rows)
        if count > _limits.MAX_ROWS:
            raise _problems.report_too_large(
                "rows", _limits.MAX_ROWS, f"The query gives more than {_limits.MAX_ROWS:,} rows."
            )
        for writer in writers:
            writer.write(rows)
        tell(f"Writing, {count:,} rows")
    return count


@contextmanager
def _reporting(
    connection: duckdb.DuckDBPyConnection, report_progress: ReportProgress
) -> Iterator[Callable[[str], None]]:
    """Report twice a second, from a thread, how far DuckDB is; what is yielded changes the words that go with it.

    DuckDB tells how much of the sources it has read, and goes on reading while rows are fetched, so that one measure
    covers query and writing.
    """
    ended = threading.Event()
    message = "Querying"
    furthest = 5

    def tell(words: str) -> None:
        nonlocal message
        message = words

    def report() -> None:
        nonlocal furthest
        while not ended.wait(PROGRESS_SECONDS):
            furthest = max(furthest, min(95, 5 + int(connection.query_progress() * 0.9)))
            report_progress(furthest, message)

    report_progress(furthest, message)
    thread = threading.Thread(target=report, daemon=True)
    thread.start()
    try:
        yield tell
    finally:
        ended.set()
        thread.join()
