"""Opens PDF documents in a limited child, by PDFium."""

from __future__ import annotations

import pypdfium2 as pdfium
from pypdfium2 import raw

from workers.files._errors import encrypted_pdf, unreadable_pdf


def open_pdf(path: str) -> pdfium.PdfDocument:
    """Open a document. Raises `/problems/encrypted-pdf`, `/problems/unreadable-pdf`."""
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


def is_encrypted(document: pdfium.PdfDocument) -> bool:
    """Whether it is encrypted, though it opened without a password."""
    return bool(raw.FPDF_GetSecurityHandlerRevision(document) != -1)
