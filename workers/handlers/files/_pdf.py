"""Opens PDF documents in a limited child, by PDFium."""

from __future__ import annotations

import os
from pathlib import Path

import pypdfium2 as pdfium
from pypdfium2 import raw

from workers.handlers.files._errors import encrypted_pdf, unreadable_pdf

TAIL_BYTES = 64 << 10


def open_pdf(path: str) -> pdfium.PdfDocument:
    """Open a document. Raises `/problems/encrypted-pdf`, `/problems/unreadable-pdf`."""
    if not _has_an_end(path):
        # PDFium would rebuild what is left, and whoever reads it could not tell that some is missing.
        raise unreadable_pdf()
    try:
        document = pdfium.PdfDocument(path)
        pages = len(document)
    except pdfium.PdfiumError as error:
        if getattr(error, "err_code", None) == raw.FPDF_ERR_PASSWORD:
            raise encrypted_pdf() from None
        raise unreadable_pdf() from None
    if pages == 0:
        raise unreadable_pdf("The PDF document has no page, or lost them.")
    return document


def _has_an_end(path: str) -> bool:
    """Whether the end-of-file marker is within the last 1,024 bytes (ISO 32000-1, Annex H, note 18), padding aside."""
    with Path(path).open("rb") as stream:
        stream.seek(max(0, stream.seek(0, os.SEEK_END) - TAIL_BYTES))
        return b"%%EOF" in stream.read().rstrip(b"\0 \t\r\n")[-1024:]


def is_encrypted(document: pdfium.PdfDocument) -> bool:
    """Whether it is encrypted, though it opened without a password."""
    return bool(raw.FPDF_GetSecurityHandlerRevision(document) != -1)
