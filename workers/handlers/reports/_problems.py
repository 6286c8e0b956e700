"""The named errors of a report."""

from __future__ import annotations

from workers.handlers.reports import _limits
from workers.outcomes import Failed


def invalid_query(detail: str, line: int | None = None, column: int | None = None) -> Failed:
    """Return the error of a query that is at fault. `line` and `column` count from 1; the column counts characters."""
    where = {"line": line, "column": column} if line is not None and column is not None else {}
    return Failed("/problems/invalid-query", "Invalid query", detail, data=where)


def report_too_large(limit: str, maximum: int, detail: str) -> Failed:
    """Return the error of a report that exceeds what may be written; `limit` names the measure, such as `rows` or `bytes`."""
    return Failed("/problems/report-too-large", "Report too large", detail, data={"limit": limit, "maximum": maximum})


def spill_too_large() -> Failed:
    """Return the error of a query that needs more temporary storage than one report may use."""
    return report_too_large(
        "spill_bytes",
        _limits.SPILL_BYTES,
        "The query needs more than its memory, and more than "
        f"{_limits.SPILL_BYTES:,} bytes of temporary storage. Try fewer rows or fewer columns.",
    )
