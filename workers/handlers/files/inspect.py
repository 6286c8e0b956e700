"""Tells what a stored file is; each kind of content is looked into by a child of its own."""

from __future__ import annotations

from shared.contracts.files.inspect import (
    ImageFacts,
    InspectParams,
    InspectResult,
    PdfFacts,
    TableFacts,
    TextFacts,
)
from shared.media_types import HEAD_BYTES, detect_media_type
from workers.handler_context import HandlerContext

_IMAGES = frozenset(
    {"image/jpeg", "image/png", "image/webp", "image/avif", "image/gif", "image/tiff", "image/bmp"}
    | {"image/heic", "image/heif"}
)
_TABLES = frozenset({"text/csv", "application/json", "application/vnd.apache.parquet"})


def handle(params: InspectParams, context: HandlerContext) -> InspectResult:
    """Look at the bytes; raises what the contract says. A file of no known type is not looked into."""
    file = context.input_file(params.file_id)
    with file.path.open("rb") as stream:
        media_type = detect_media_type(stream.read(HEAD_BYTES), file.name)
    whole = InspectResult(media_type=media_type, size=file.size, sha256=file.sha256)
    request = {
        "path": str(file.path),
        "media_type": media_type,
        "include_gps": params.include_gps,
        "header": params.header,
        "encoding": params.encoding,
    }
    if media_type in _IMAGES:
        answer = context.run_child("workers.handlers.files._inspect_image", request)
        return whole.model_copy(update={"image": ImageFacts.model_validate(answer)})
    if media_type == "application/pdf":
        answer = context.run_child("workers.handlers.files._inspect_pdf", request)
        return whole.model_copy(update={"pdf": PdfFacts.model_validate(answer)})
    if media_type in _TABLES:
        answer = context.run_child("workers.handlers.files._inspect_table", request, max_file_bytes=_COPY_BYTES)
        return whole.model_copy(update={"table": TableFacts.model_validate(answer)})
    if media_type.startswith("text/") or media_type == "image/svg+xml":
        answer = context.run_child("workers.handlers.files._inspect_text", request)
        return whole.model_copy(update={"text": TextFacts.model_validate(answer)})
    return whole


_COPY_BYTES = 8 << 30
"""Room for the copy of a table in another encoding, whose letters UTF-8 may write longer, and for DuckDB's spilling."""
