"""The child's side of `files.inspect` for PDF documents."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from typing import Any

from workers.handlers.files._pdf import is_encrypted, open_pdf
from workers.outcomes import Failed

LONGEST_TITLE = 1000
_DIRECTION_CONTROLS = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""They can make a text look like another one (UTS #39)."""


def run_in_child(request: dict[str, Any], report_progress: Callable[[int, str | None], None]) -> dict[str, Any]:
    """Return what the document at `path` states about itself, as `PdfFacts` has it."""
    try:
        document = open_pdf(request["path"])
    except Failed as failed:
        if failed.type == "/problems/encrypted-pdf":
            return {"pages": None, "title": None, "encrypted": True}
        raise
    title = clean_title(document.get_metadata_value("Title"))
    return {"pages": len(document), "title": title[:LONGEST_TITLE] or None, "encrypted": is_encrypted(document)}


def clean_title(title: str) -> str:
    """Return a title as one line: without control characters, with all spaces and joiners between its letters."""
    return "".join(map(_clean_character, title.replace("\r\n", "\n"))).strip()


def _clean_character(character: str) -> str:
    if character in "\t\n\r\v\f\u0085\u2028\u2029":
        return " "
    if character in _DIRECTION_CONTROLS or character == "\ufeff":
        return ""
    return "" if unicodedata.category(character) in {"Cc", "Cs", "Co", "Cn"} else character
