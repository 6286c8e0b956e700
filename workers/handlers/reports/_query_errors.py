"""Turns an error of DuckDB's into the `Failed` of a report."""

from __future__ import annotations

from collections.abc import Sequence

import duckdb

from workers.formats.duckdb_errors import explain, find_resource_failure, is_spill_limit_reached
from workers.formats.problems import engine_failed
from workers.formats.tables import explain_table_error
from workers.handlers.reports import _problems
from workers.handlers.reports._limits import ReportLimits
from workers.handlers.reports._sources import Source
from workers.outcomes import Failed


def explain_query_error(error: duckdb.Error, query: str, sources: Sequence[Source], limits: ReportLimits) -> Failed:
    """Return the `Failed` that explains what was wrong: the query, a source, or the space that they needed."""
    if is_spill_limit_reached(error):
        return _problems.spill_too_large(limits.spill_bytes)
    if (failure := find_resource_failure(error)) is not None:
        return failure
    if isinstance(error, (duckdb.InternalException, duckdb.FatalException)):
        # Such a message holds a stack trace of DuckDB's.
        return _problems.invalid_query("The query engine cannot run this query.")
    for source in sources:
        if str(source.table.path) in str(error):
            return explain_table_error(error, source.table)
    if isinstance(error, duckdb.IOException):
        return engine_failed()
    explanation = explain(error, query)
    if explanation.position is None:
        return _problems.invalid_query(explanation.message)
    return _problems.invalid_query(explanation.message, *find_line_and_column(query, explanation.position))


def find_line_and_column(query: str, position: int) -> tuple[int, int]:
    """Return the line and the column in characters, both from 1, of a position in bytes, from 0."""
    before = query.encode()[:position].decode(errors="ignore")
    return before.count("\n") + 1, len(before) - (before.rfind("\n") + 1) + 1
