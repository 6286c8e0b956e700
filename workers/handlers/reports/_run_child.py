"""The child's side of `reports.run`: opens the sources, runs the query once and writes every format in one pass."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import duckdb

from workers.formats.duckdb_sandbox import open_sandbox
from workers.formats.tables import Table, prepare_table
from workers.handlers.reports import _problems
from workers.handlers.reports._csv_writer import CsvWriter
from workers.handlers.reports._json_writer import JsonWriter
from workers.handlers.reports._limits import ReportLimits
from workers.handlers.reports._query_check import check_query
from workers.handlers.reports._query_errors import explain_query_error
from workers.handlers.reports._sources import FOLDER, Source, create_view
from workers.handlers.reports._values import (
    ColumnConverter,
    ResultColumn,
    cast_nanoseconds,
    describe_result,
    find_converters,
    name_columns,
)
from workers.handlers.reports._xlsx_writer import XlsxWriter

BATCH_ROWS = 2_000
PROGRESS_SECONDS = 0.5

ReportProgress = Callable[[int, str | None], None]
Writer = CsvWriter | JsonWriter | XlsxWriter
WRITERS: dict[str, type[Writer]] = {"csv": CsvWriter, "json": JsonWriter, "xlsx": XlsxWriter}


def run_in_child(request: dict[str, Any], report_progress: ReportProgress) -> dict[str, Any]:
    """Write `report.<format>` into the working folder and return `{rows, columns, sources}`.

    The request is `{title, sources: [{name, path, media_type, header, encoding}], query, formats, limits}`. The working
    folder is the attempt's scratch folder; DuckDB knows only paths relative to it, so that its messages cannot show
    where it is.
    """
    limits = ReportLimits(**request["limits"])
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
        memory_bytes=limits.query_memory_bytes,
        spill_bytes=limits.spill_bytes,
        threads=limits.query_threads,
    )
    sources = [create_view(connection, name, table) for name, table in tables.items()]
    try:
        check_query(connection, request["query"], list(tables))
        answer = _run(connection, request, limits, report_progress)
    except duckdb.Error as error:
        raise explain_query_error(error, request["query"], sources, limits) from error
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
    limits: ReportLimits,
    report_progress: ReportProgress,
) -> dict[str, Any]:
    # No SELECT can write, but a transaction that refuses writes does not depend on knowing every form of SELECT.
    connection.execute("BEGIN TRANSACTION READ ONLY")
    with _reporting(connection, report_progress) as set_message, ExitStack() as cleanup:
        connection.execute(request["query"])
        described = describe_result(connection)
        _run_again_for_nanoseconds(connection, request["query"], described)
        columns = name_columns(described)
        if len(columns) > limits.max_columns:
            raise _problems.too_many_columns(len(columns), limits.max_columns)
        writers = [
            WRITERS[name](
                cleanup.enter_context(Path(f"report.{name}").open("wb")),
                columns,
                request["title"],
                limits.max_format_bytes,
            )
            for name in request["formats"]
        ]
        count = 0
        for rows in _fetch(connection, find_converters(described)):
            count += len(rows)
            if count > limits.max_rows:
                raise _problems.too_many_rows(limits.max_rows)
            for writer in writers:
                writer.write(rows)
            set_message(f"Writing, {count:,} rows")
        set_message(f"Finishing, {count:,} rows")
        for writer in writers:
            writer.finish()
    report_progress(99, f"{count:,} rows")
    return {"rows": count, "columns": [{"name": column.name, "type": column.type} for column in columns]}


def _run_again_for_nanoseconds(
    connection: duckdb.DuckDBPyConnection, query: str, described: Sequence[ResultColumn]
) -> None:
    """Run the query again with its nanoseconds as text if it has any: the types are known only once it has run."""
    casts = [cast_nanoseconds(column.type) for column in described]
    if not any(casts):
        return
    columns = ", ".join(
        f"#{number}" if cast is None else f"CAST(#{number} AS {cast})" for number, cast in enumerate(casts, start=1)
    )
    # DuckDB writes the query anew, without comments and semicolons.
    row = connection.execute("SELECT json_deserialize_sql(json_serialize_sql(?::VARCHAR))", [query]).fetchone()
    assert row is not None, "a SELECT without FROM has one row"
    connection.execute(f"SELECT {columns} FROM ({row[0].rstrip(';')})")  # noqa: S608


def _fetch(
    connection: duckdb.DuckDBPyConnection, converters: Sequence[ColumnConverter]
) -> Iterator[Sequence[Sequence[Any]]]:
    """Yield the rows in batches, converted where their columns have a converter that finds anything to convert."""
    while rows := _fetch_batch(connection):
        for converter in converters:
            rows = converter.convert_batch(rows)
        yield rows


def _fetch_batch(connection: duckdb.DuckDBPyConnection) -> Sequence[Sequence[Any]]:
    try:
        return connection.fetchmany(BATCH_ROWS)
    except OverflowError:
        raise _problems.invalid_query(
            "An INTERVAL of the report is longer than 999,999,999 days. Cast it to VARCHAR to have it written."
        ) from None


@contextmanager
def _reporting(
    connection: duckdb.DuckDBPyConnection, report_progress: ReportProgress
) -> Iterator[Callable[[str], None]]:
    """Report twice a second, from a thread, how far DuckDB is; the function that is yielded sets the message.

    DuckDB knows how much of the sources it has read, and goes on reading while rows are fetched, so that one measure
    covers query and writing.
    """
    ended = threading.Event()
    message = "Querying"
    furthest = 5

    def set_message(words: str) -> None:
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
        yield set_message
    finally:
        ended.set()
        thread.join()
