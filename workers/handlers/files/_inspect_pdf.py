"""The child's side of `files.inspect` for PDF documents."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from workers.handlers.files._pdf import is_encrypted, open_pdf
from workers.outcomes import Failed

LONGEST_TITLE = 1000


def run_in_child(request: dict[str, Any], report_progress: Callable[[int, str | None], None]) -> dict[str, Any]:
    """Tell what the document at `path` says of itself."""
    try:
        document = open_pdf(request["path"])
    except Failed as failed:
        if failed.type == "/problems/encrypted-pdf":
            return {"pages": None, "title": None, "encrypted": True}
        raise
    title = document.get_metadata_value("Title")
    printable = "".join(c for c in title if c.isprintable()).strip()
    return {"pages": len(document), "title": printable[:LONGEST_TITLE] or None, "encrypted": is_encrypted(document)}
