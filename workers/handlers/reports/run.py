"""Runs a report in a limited child, and adds the files that it wrote as artifacts."""

from __future__ import annotations

from dataclasses import asdict, replace

from shared.contracts.reports.run import Format, RunParams, RunResult
from workers.handler_context import HandlerContext
from workers.handlers.reports._limits import LIMITS
from workers.handlers.reports._problems import more_rows_than_the_quota
from workers.outcomes import Failed

MEDIA_TYPES: dict[Format, str] = {
    "csv": "text/csv",
    "xlsx": "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
    "json": "application/json",
}


def handle(params: RunParams, context: HandlerContext) -> RunResult:
    """Write `report.<format>` for each requested format.

    Raises `Failed`: `/problems/invalid-query`, `/problems/unreadable-table`, `/problems/report-too-large`,
    `/problems/quota-report-rows`,    `/problems/out-of-memory`, `/problems/storage-full`, `/problems/timed-out`.
    """
    context.progress(0, "Reading")
    sources = []
    for source in params.sources:
        file = context.input_file(source.file_id)
        sources.append(
            {
                "name": source.name,
                "path": str(file.path),
                "media_type": file.media_type,
                "header": source.header,
                "encoding": source.encoding,
            }
        )
    quota = context.held_limits().least("report_rows")
    limits = LIMITS if quota is None else replace(LIMITS, max_rows=min(quota, LIMITS.max_rows))
    try:
        answer = context.run_child(
            "workers.handlers.reports._run_child",
            {
                "title": params.title,
                "sources": sources,
                "query": params.query,
                "formats": params.formats,
                "limits": asdict(limits),
            },
            memory_bytes=limits.child_memory_bytes,
            max_file_bytes=limits.file_bytes,
        )
    except Failed as error:
        if limits.max_rows < LIMITS.max_rows and (error.data or {}).get("limit") == "rows":
            raise more_rows_than_the_quota(limits.max_rows) from None
        raise
    result = RunResult.model_validate(answer)
    for facts in result.sources:
        if facts.replaced_bytes:
            context.write_log(
                "warning",
                f"Bytes of {facts.name} that are not valid {facts.encoding}, and for which U+FFFD stands: {facts.replaced_bytes}",
                source=facts.name,
                replaced_bytes=facts.replaced_bytes,
            )
    context.write_log("info", f"Rows of the report: {result.rows}", rows=result.rows)
    for name in params.formats:
        context.add_artifact(context.scratch / f"report.{name}", f"report.{name}", MEDIA_TYPES[name])
    return result
