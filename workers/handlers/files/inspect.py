"""Returns facts about a stored file, whose content a limited child reads."""

from __future__ import annotations

from shared.contracts.files._image_formats import IMAGE_FORMATS
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

_TABLES = frozenset({"text/csv", "application/json", "application/vnd.apache.parquet"})


def handle(params: InspectParams, context: HandlerContext) -> InspectResult:
    """Return the facts of the file's type; of an unknown type, only its size and checksum. Raises the contract's errors."""
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
    if media_type in IMAGE_FORMATS:
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
"""The size limit of a file that the child writes: a copy of a table in UTF-8, or what DuckDB spills to disk."""
