"""Makes small PDF documents for tests."""

from __future__ import annotations

import io
from collections.abc import Sequence

import pikepdf
from pikepdf import Array, Dictionary, Name, String

PAGE_SIZE = (400, 400)


def document(
    *contents: str | bytes, rotate: int = 0, title: str | None = None, encryption: pikepdf.Encryption | None = None
) -> bytes:
    """Return a PDF with a page for each text, or for each content stream."""
    pdf = pikepdf.new()
    for content in contents:
        page = add_page(
            pdf, content if isinstance(content, bytes) else f"BT /F1 12 Tf 20 250 Td ({content}) Tj ET".encode()
        )
        if rotate:
            page.Rotate = rotate
    if title is not None:
        pdf.docinfo["/Title"] = title
    return save(pdf, encryption)


def form(
    content: bytes, fields: Sequence[Dictionary] = (), annotations: Sequence[Dictionary] = (), rotate: int = 0
) -> bytes:
    """Return a PDF of one page with these fields and these other annotations."""
    pdf = pikepdf.new()
    page = add_page(pdf, content)
    page.Rotate = rotate
    widgets = [pdf.make_indirect(field) for field in fields]
    page.Annots = Array([*widgets, *(pdf.make_indirect(annotation) for annotation in annotations)])
    pdf.Root.AcroForm = Dictionary(
        Fields=Array(widgets), DR=Dictionary(Font=page.Resources.Font), DA=String("/F1 12 Tf 0 g")
    )
    return save(pdf)


def field(kind: str, box: Sequence[float], value: object = None, **entries: object) -> Dictionary:
    """Return a form field of type `Tx`, `Ch`, `Btn` or `Sig`, with its widget."""
    made = annotation("Widget", box, FT=Name("/" + kind), T=String(f"field {tuple(box)}"), **entries)
    if value is not None:
        made.V = value
    return made


def annotation(subtype: str, box: Sequence[float], **entries: object) -> Dictionary:
    """Return a visible, printed annotation."""
    return Dictionary(
        Type=Name.Annot,
        Subtype=Name("/" + subtype),
        Rect=Array(box),
        **{"F": 4, "DA": String("/F1 12 Tf 0 g"), **entries},
    )


def lines_at(*lines: tuple[float, float, str], rotate: int = 0) -> bytes:
    """Return a content stream with text at places that are right when the page is rotated clockwise by `rotate`."""
    width, height = PAGE_SIZE
    stream = "BT /F1 12 Tf "
    for x, y, text in lines:
        matrix = {
            0: f"1 0 0 1 {x} {y}",
            90: f"0 1 -1 0 {width - y} {x}",
            180: f"-1 0 0 -1 {width - x} {height - y}",
            270: f"0 -1 1 0 {y} {height - x}",
        }[rotate]
        stream += f"{matrix} Tm ({text}) Tj "
    return (stream + "ET").encode("cp1252")


def add_page(pdf: pikepdf.Pdf, content: bytes) -> pikepdf.Page:
    """Add a page with Helvetica as its font F1."""
    pdf.add_blank_page(page_size=PAGE_SIZE)
    page = pdf.pages[-1]
    page.Resources = Dictionary(Font=Dictionary(F1=pdf.make_indirect(helvetica())))
    page.Contents = pdf.make_stream(content)
    return page


def helvetica() -> Dictionary:
    """Return the font in the encoding windows-1252."""
    return Dictionary(Type=Name.Font, Subtype=Name.Type1, BaseFont=Name.Helvetica, Encoding=Name.WinAnsiEncoding)


def appearance(pdf: pikepdf.Pdf, text: str) -> pikepdf.Object:
    """Return an appearance stream that shows a text."""
    made = pdf.make_stream(f"BT /F1 12 Tf 2 5 Td ({text}) Tj ET".encode("cp1252"))
    made.Type, made.Subtype = Name.XObject, Name.Form
    made.BBox = Array([0, 0, 200, 20])
    made.Resources = Dictionary(Font=Dictionary(F1=helvetica()))
    return made


def save(pdf: pikepdf.Pdf, encryption: pikepdf.Encryption | None = None) -> bytes:
    """Return the document's bytes."""
    stream = io.BytesIO()
    pdf.save(stream, encryption=encryption)
    return stream.getvalue()
