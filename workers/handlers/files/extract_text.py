"""Extracts the text of a PDF or a text file, in a limited child."""

from __future__ import annotations

from shared.contracts.files.extract_text import ExtractTextParams, ExtractTextResult
from shared.media_types import HEAD_BYTES, detect_media_type
from workers.formats.problems import unreadable_text
from workers.handler_context import HandlerContext

MOST_TEXT_BYTES = 64 << 20


def handle(params: ExtractTextParams, context: HandlerContext) -> ExtractTextResult:
    """Write the text, and add it as the artifact `text.txt`. Raises the errors of the contract."""
    source = context.input_file(params.file_id)
    with source.path.open("rb") as stream:
        media_type = detect_media_type(stream.read(HEAD_BYTES), source.name)
    if media_type == "application/pdf":
        module = "workers.handlers.files._extract_pdf"
    elif media_type.startswith("text/") or media_type == "application/json":
        module = "workers.handlers.files._extract_plain_text"
    else:
        raise unreadable_text()
    text_path = context.scratch / "text.txt"
    answer = context.run_child(
        module,
        {
            "path": str(source.path),
            "text_path": str(text_path),
            "pages": params.pages,
            "encoding": params.encoding,
            "most_bytes": MOST_TEXT_BYTES,
        },
    )
    context.add_artifact(text_path, "text.txt", "text/plain")
    return ExtractTextResult.model_validate(answer)
