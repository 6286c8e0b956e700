"""The problems with which a report fails."""

from __future__ import annotations

from workers.outcomes import Failed


def invalid_query(detail: str, line: int | None = None, column: int | None = None) -> Failed:
    """Return the error of a query that is at fault. `line` and `column` count from 1; the column counts characters."""
    where = {"line": line, "column": column} if line is not None and column is not None else {}
    return Failed("/problems/invalid-query", "Invalid query", detail, data=where)


def report_too_large(limit: str, maximum: int, detail: str) -> Failed:
    """Return the error of a report that exceeds what may be written; `limit` names the measure, such as `rows` or `bytes`."""
    return Failed("/problems/report-too-large", "Report too large", detail, data={"limit": limit, "maximum": maximum})


def too_many_rows(maximum: int) -> Failed:
    """Return the error of a query with more rows than a report may have."""
    return report_too_large("rows", maximum, f"The query returns more than {maximum:,} rows.")


def more_rows_than_the_quota(maximum: int) -> Failed:
    """Return the error of a query with more rows than the caller or its organization may have in a report."""
    detail = f"The query returns more than {maximum:,} rows, which is the most that you or your organization may have."
    return Failed("/problems/quota-report-rows", "Quota of report rows exceeded", detail, data={"maximum": maximum})


def too_many_columns(columns: int, maximum: int) -> Failed:
    """Return the error of a query with more columns than a report may have."""
    return report_too_large("columns", maximum, f"The query returns {columns:,} columns; {maximum:,} are allowed.")


def format_too_large(format_name: str, maximum: int) -> Failed:
    """Return the error of a format that would have more bytes than it may have."""
    return report_too_large("bytes", maximum, f"As {format_name}, the report has more than {maximum:,} bytes.")


def spill_too_large(maximum: int) -> Failed:
    """Return the error of a query that needs more temporary storage than one report may use."""
    return report_too_large(
        "spill_bytes",
        maximum,
        f"The query needs more than its memory and {maximum:,} bytes of temporary storage. Try fewer rows or columns.",
    )
