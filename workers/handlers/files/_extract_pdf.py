"""The child's side of `files.extract_text` for PDF documents."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pypdfium2 as pdfium

from workers.handlers.files._errors import too_much_text, unreadable_pdf
from workers.handlers.files._pages import choose_pages
from workers.handlers.files._pdf import open_pdf

_JOINS = "\x02\ufffe"
"""What PDFium puts where a word was parted at the end of a line, in the place of the hyphen and the line's end."""


def run_in_child(request: dict[str, Any], report_progress: Callable[[int, str | None], None]) -> dict[str, Any]:
    """Write the text of the document at `path` to `text_path`; `pages` chooses from it, `most_bytes` bounds it.

    A word that was parted at the end of a line is whole. Answers `{"pages", "characters"}`.
    """
    document = open_pdf(request["path"])
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
    try:
        page = document[number - 1]
        text_page = page.get_textpage()
        text = text_page.get_text_range()
        text_page.close()
        page.close()
    except pdfium.PdfiumError:
        raise unreadable_pdf(f"Page {number} of the PDF document is damaged.") from None
    return str(text).replace("\r\n", "\n").replace("\r", "\n").translate(_DROPPED)


_DROPPED = {ord(character): None for character in (*_JOINS, "\0", "\f")}
