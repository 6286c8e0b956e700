"""Which named error an error of DuckDB's is."""

from __future__ import annotations

import re
from collections.abc import Sequence

import duckdb

from workers.formats.table_readers import find_exceeded_bytes
from workers.handlers.reports import _problems
from workers.handlers.reports._engine_errors import explain
from workers.handlers.reports._sources import Source
from workers.outcomes import Failed

CONVERSION = re.compile(r"Column (?P<column>.*) is being converted as type (?P<type>.*)")


def failure_of(error: duckdb.Error, query: str, sources: Sequence[Source]) -> Failed:
    """Give the `Failed` that tells the caller what was wrong: the query, a source, or the space that they needed."""
    explanation = explain(error)
    if isinstance(error, duckdb.OutOfMemoryException) or "bad_alloc" in explanation.whole:
        return _problems.out_of_memory()
    if isinstance(error, (duckdb.InternalException, duckdb.FatalException)):
        # Such a message holds a stack trace of the engine.
        return _problems.invalid_query("The query engine cannot run this query.")
    for source in sources:
        if str(source.path) in explanation.whole:
            if (most_bytes := find_exceeded_bytes(error)) is not None:
                return _problems.value_too_large(source.name, most_bytes)
            message = explanation.message.replace(str(source.path), source.name)
            if _asked_by_the_query(explanation.whole, source):
                return _problems.invalid_query(f'In the source "{source.name}": {message}')
            return _problems.unreadable_table(source.name, message)
    if isinstance(error, duckdb.IOException):
        return _problems.engine_failed()
    if explanation.position is None:
        return _problems.invalid_query(explanation.message)
    return _problems.invalid_query(explanation.message, *find_line_and_column(query, explanation.position))


def find_line_and_column(query: str, position: int) -> tuple[int, int]:
    """Turn a position in bytes, from 0, into a line and a column in characters, both from 1."""
    before = query.encode()[:position].decode(errors="ignore")
    return before.count("\n") + 1, len(before) - (before.rfind("\n") + 1) + 1


def _asked_by_the_query(message: str, source: Source) -> bool:
    """Tell a cast in the query from a type that was found in the file.

    DuckDB's CSV reader does the query's casts while it reads, and words their failure as it words a broken file's.
    """
    match = CONVERSION.search(message)
    return match is not None and source.column_types.get(match["column"]) != match["type"].strip()
