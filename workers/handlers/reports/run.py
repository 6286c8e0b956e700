"""Runs a report in a limited child and keeps what it wrote."""

from __future__ import annotations

from shared.contracts.reports.run import Format, RunParams, RunResult
from workers.handler_context import HandlerContext
from workers.handlers.reports import _limits

MEDIA_TYPES: dict[Format, str] = {
    "csv": "text/csv",
    "xlsx": "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
    "json": "application/json",
}


def handle(params: RunParams, context: HandlerContext) -> RunResult:
    """Write `report.<format>` for each format asked for.

    Raises `Failed`: `/problems/invalid-query`, `/problems/unreadable-table`, `/problems/report-too-large`,
    `/problems/out-of-memory`, `/problems/timed-out`.
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
    answer = context.run_child(
        "workers.handlers.reports._run_child",
        {"title": params.title, "sources": sources, "query": params.query, "formats": params.formats},
        memory_bytes=_limits.CHILD_MEMORY_BYTES,
        max_file_bytes=_limits.FILE_BYTES,
    )
    result = RunResult.model_validate(answer)
    for name in params.formats:
        context.add_artifact(context.scratch / f"report.{name}", f"report.{name}", MEDIA_TYPES[name])
    return result
