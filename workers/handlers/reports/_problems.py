"""The named errors of a report."""

from __future__ import annotations

from workers.outcomes import Failed


def invalid_query(detail: str, line: int | None = None, column: int | None = None) -> Failed:
    """The query is at fault. `line` and `column` count from 1; the column counts characters."""
    where = {"line": line, "column": column} if line is not None and column is not None else {}
    return Failed("/problems/invalid-query", "Invalid query", detail, data=where)


def unreadable_table(source: str, reason: str) -> Failed:
    """A source is not a table, or breaks off being one."""
    return Failed(
        "/problems/unreadable-table",
        "Unreadable table",
        f'The source "{source}" cannot be read as a table: {reason}',
        data={"source": source},
    )


def value_too_large(source: str, most_bytes: int) -> Failed:
    """A source is JSON with a value that is larger than is read."""
    return unreadable_table(source, f"one value of its JSON has more than {most_bytes >> 20} MiB.")


def report_too_large(limit: str, maximum: int, detail: str) -> Failed:
    """The report exceeds what may be written; `limit` names the measure, such as `rows` or `bytes`."""
    return Failed("/problems/report-too-large", "Report too large", detail, data={"limit": limit, "maximum": maximum})


def out_of_memory() -> Failed:
    """The query needed more than the memory and the spill that it may use."""
    return Failed(
        "/problems/out-of-memory",
        "Out of memory",
        "The query needed more memory than one report may use. Fewer rows, or fewer columns, may do.",
    )


def engine_failed() -> Failed:
    """The engine could not do its work, and not through any fault of the query's."""
    return Failed(
        "/problems/internal-error",
        "Internal error",
        "The query engine could not read or write its working files.",
        retryable=True,
    )
