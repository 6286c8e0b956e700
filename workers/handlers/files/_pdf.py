"""Opens PDF documents with PDFium, in a limited child."""

from __future__ import annotations

import mmap
import re
from pathlib import Path

import pypdfium2 as pdfium
from pypdfium2 import raw

from workers.handlers.files._errors import encrypted_pdf, unreadable_pdf

_END_OF_FILE, _START_OF_REFERENCES = b"%%EOF", b"startxref"
_OBJECT = re.compile(rb"[\s>]\d{1,10}\s+\d{1,5}\s+obj\b")
_FOUND_BY_PDFIUM_BYTES = 1024
"""How far from the end of a file PDFium surely finds the place of the cross-references."""


def open_pdf(path: str) -> pdfium.PdfDocument:
    """Open a document. Raises `/problems/encrypted-pdf`, `/problems/unreadable-pdf`."""
    whole_size = Path(path).stat().st_size
    size = _find_end(path)
    if size is None:
        # PDFium would rebuild the remaining part, and the result would not show that some is missing.
        raise unreadable_pdf()
    try:
        # PDFium looks for the cross-references at the end of what it is given.
        follows = whole_size - size > _FOUND_BY_PDFIUM_BYTES
        document = pdfium.PdfDocument(_read_start(path, size) if follows else path)
        pages = len(document)
    except pdfium.PdfiumError as error:
        if getattr(error, "err_code", None) == raw.FPDF_ERR_PASSWORD:
            raise encrypted_pdf() from None
        raise unreadable_pdf() from None
    if pages == 0:
        raise unreadable_pdf("The PDF document has no page, or its pages are missing. Save it again, and upload that.")
    return document


def _find_end(path: str) -> int | None:
    """Return where the document ends, None if it is cut short.

    Whatever follows the last end-of-file marker (ISO 32000-2, 7.5.5) is ignored, as in other readers, unless it is
    a later revision of the document whose own end is missing.
    """
    with Path(path).open("rb") as file:
        try:
            content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except ValueError:
            # An empty file cannot be mapped.
            return None
        with content:
            marker = content.rfind(_END_OF_FILE)
            end = marker + len(_END_OF_FILE)
            # A document that lacks nothing but this marker is whole.
            references = content.rfind(_START_OF_REFERENCES)
            if references > marker:
                marker, end = references, len(content)
            if marker < 0 or _OBJECT.search(content, marker):
                return None
            return end


def _read_start(path: str, size: int) -> bytes:
    with Path(path).open("rb") as file:
        return file.read(size)


def is_encrypted(document: pdfium.PdfDocument) -> bool:
    """Return whether a document is encrypted although it opened without a password."""
    return bool(raw.FPDF_GetSecurityHandlerRevision(document) != -1)
