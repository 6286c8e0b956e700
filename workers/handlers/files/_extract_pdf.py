"""The child's side of `files.extract_text` for PDF documents."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pypdfium2 as pdfium

from workers.handlers.files._errors import too_much_text, unreadable_pdf
from workers.handlers.files._pages import choose_pages
from workers.handlers.files._pdf import open_pdf
from workers.handlers.files._pdf_text import read_page_text


def run_in_child(request: dict[str, Any], report_progress: Callable[[int, str | None], None]) -> dict[str, Any]:
    """Write the text of the pages `pages` of the document at `path` to `text_path`; return `{"pages", "characters"}`.

    Raises `/problems/output-too-large` when the text has more than `most_bytes` bytes.
    """
    document = open_pdf(request["path"])
    document.init_forms()
    chosen = choose_pages(request["pages"], len(document))
    characters, size = 0, 0
    with Path(request["text_path"]).open("wb") as output:
        for number, page in enumerate(chosen, start=1):
            text = ("" if number == 1 else "\f") + _read_page(document, page)
            encoded = text.encode("utf-8", errors="replace")
            characters, size = characters + len(text), size + len(encoded)
            if size > request["most_bytes"]:
                raise too_much_text(request["most_bytes"])
            output.write(encoded)
            report_progress(100 * number // len(chosen), f"{number} of {len(chosen)}")
    return {"pages": len(chosen), "characters": characters}


def _read_page(document: pdfium.PdfDocument, number: int) -> str:
    """Return the text of a page, each line of which ends with a line feed."""
    try:
        text = read_page_text(document, number)
    except pdfium.PdfiumError:
        raise unreadable_pdf(f"Page {number} of the PDF document is damaged.") from None
    return text + "\n" if text and not text.endswith("\n") else text
