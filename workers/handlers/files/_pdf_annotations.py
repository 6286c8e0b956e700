"""Reads what a page of a PDF document shows in form fields and annotations, which are no part of its content.

- Of a text field, its value; of a choice field, the labels of what is selected. A password is not read.
- `☑` for a check box or radio button that is on.
- Of free text, its contents.
- Of everything else, the text of its appearance stream (ISO 32000-2, 12.5.5): stamps, signatures, captions of buttons.

What is hidden is not read, and neither are comments: a viewer shows them only when somebody opens them.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import pypdfium2 as pdfium
from pypdfium2 import raw

from workers.handlers.files._pdf_characters import Box, clean, open_text_page, read_characters

_NOT_VISIBLE = raw.FPDF_ANNOT_FLAG_HIDDEN | raw.FPDF_ANNOT_FLAG_NOVIEW
_PASSWORD = 1 << 13
"""A flag of a text field (ISO 32000-2, table 231)."""
_WITHOUT_TEXT = frozenset(
    {
        raw.FPDF_ANNOT_LINK,
        raw.FPDF_ANNOT_POPUP,
        raw.FPDF_ANNOT_TEXT,
        raw.FPDF_ANNOT_HIGHLIGHT,
        raw.FPDF_ANNOT_UNDERLINE,
        raw.FPDF_ANNOT_SQUIGGLY,
        raw.FPDF_ANNOT_STRIKEOUT,
        raw.FPDF_ANNOT_FILEATTACHMENT,
    }
)
CHECK_MARK = "☑"


class Fragment(NamedTuple):
    """Text that stands on a page and is no part of its content."""

    text: str
    box: Box


class Annotation(NamedTuple):
    """What a page shows for an annotation: a value, or the text in its appearance stream, which is not read yet."""

    position: int
    """Its place in the page's list of annotations."""
    box: Box
    value: str


def list_visible(document: pdfium.PdfDocument, page: pdfium.PdfPage) -> list[Annotation]:
    """Return the fields and annotations of a page that may show text. Does not change the page."""
    visible = []
    for index in range(raw.FPDFPage_GetAnnotCount(page)):
        with _open_annotation(page, index) as annotation:
            if annotation is None:
                continue
            value, has_appearance = _read_annotation(document, annotation)
            if value or has_appearance:
                visible.append(Annotation(index, _read_box(annotation), value))
    return visible


def read_fragments(document: pdfium.PdfDocument, number: int, visible: list[Annotation]) -> list[Fragment]:
    """Return the texts of the visible annotations of page `number`. Changes the page: read its content before."""
    values = [Fragment(annotation.value, annotation.box) for annotation in visible if annotation.value]
    drawn = {annotation.position: annotation.box for annotation in visible if not annotation.value}
    if not drawn:
        return values
    page = document[number - 1]
    try:
        for index in range(raw.FPDFPage_GetAnnotCount(page)):
            with _open_annotation(page, index) as handle:
                if handle is not None and index not in drawn:
                    raw.FPDFAnnot_SetFlags(handle, raw.FPDF_ANNOT_FLAG_HIDDEN)
        is_drawn = _draw_only_annotations(page)
    finally:
        page.close()
    return values + (_read_appearances(document, number, list(drawn.values())) if is_drawn else [])


@contextmanager
def _open_annotation(page: pdfium.PdfPage, index: int) -> Iterator[raw.FPDF_ANNOTATION | None]:
    annotation = raw.FPDFPage_GetAnnot(page, index)
    try:
        yield annotation or None
    finally:
        if annotation:
            raw.FPDFPage_CloseAnnot(annotation)


def _read_annotation(document: pdfium.PdfDocument, annotation: raw.FPDF_ANNOTATION) -> tuple[str, bool]:
    """Return the text of an annotation as far as it is a value, and whether its appearance shows text otherwise."""
    subtype = raw.FPDFAnnot_GetSubtype(annotation)
    if raw.FPDFAnnot_GetFlags(annotation) & _NOT_VISIBLE or subtype in _WITHOUT_TEXT:
        return "", False
    has_appearance = bool(raw.FPDFAnnot_HasKey(annotation, b"AP"))
    text = ""
    if subtype == raw.FPDF_ANNOT_FREETEXT:
        text = _read_string(lambda *room: raw.FPDFAnnot_GetStringValue(annotation, b"Contents", *room))
    elif subtype == raw.FPDF_ANNOT_WIDGET and (form := document.formenv):
        match raw.FPDFAnnot_GetFormFieldType(form, annotation):
            case raw.FPDF_FORMFIELD_TEXTFIELD:
                if raw.FPDFAnnot_GetFormFieldFlags(form, annotation) & _PASSWORD:
                    return "", False
                text = _read_value(form, annotation)
            case raw.FPDF_FORMFIELD_COMBOBOX | raw.FPDF_FORMFIELD_LISTBOX:
                text = "\n".join(_list_selected(form, annotation)) or _read_value(form, annotation)
            case raw.FPDF_FORMFIELD_CHECKBOX | raw.FPDF_FORMFIELD_RADIOBUTTON:
                return CHECK_MARK if raw.FPDFAnnot_IsChecked(form, annotation) else "", False
    return text, has_appearance and not text


def _read_value(form: pdfium.PdfFormEnv, annotation: raw.FPDF_ANNOTATION) -> str:
    return _read_string(lambda *room: raw.FPDFAnnot_GetFormFieldValue(form, annotation, *room))


def _list_selected(form: pdfium.PdfFormEnv, annotation: raw.FPDF_ANNOTATION) -> list[str]:
    return [
        _read_string(lambda *room, index=index: raw.FPDFAnnot_GetOptionLabel(form, annotation, index, *room))
        for index in range(raw.FPDFAnnot_GetOptionCount(form, annotation))
        if raw.FPDFAnnot_IsOptionSelected(form, annotation, index)
    ]


def _read_string(get: Callable[..., int]) -> str:
    """Return a string that PDFium writes in UTF-16 into the room that it is given, a zero at its end."""
    size = get(None, 0)
    room = (ctypes.c_ushort * (size // 2))()
    get(room, size)
    return clean(bytes(room).decode("utf-16-le", errors="ignore")).strip()


def _read_box(annotation: raw.FPDF_ANNOTATION) -> Box:
    rect = raw.FS_RECTF()
    raw.FPDFAnnot_GetRect(annotation, rect)
    left, right = sorted((rect.left, rect.right))
    bottom, top = sorted((rect.bottom, rect.top))
    return Box(left, bottom, right, top)


def _draw_only_annotations(page: pdfium.PdfPage) -> bool:
    """Replace the content of a page by what its annotations show that are not hidden; return whether that is done."""
    # PDFium searches for what it removes from the first object on.
    while first := raw.FPDFPage_GetObject(page, 0):
        if not raw.FPDFPage_RemoveObject(page, first):
            return False
        raw.FPDFPageObj_Destroy(first)
    return bool(
        raw.FPDFPage_GenerateContent(page) and raw.FPDFPage_Flatten(page, raw.FLAT_NORMALDISPLAY) == raw.FLATTEN_SUCCESS
    )


def _read_appearances(document: pdfium.PdfDocument, number: int, boxes: list[Box]) -> list[Fragment]:
    """Return the text in each box of a page that shows nothing but annotations."""
    texts: dict[Box, str] = {}
    pending, owner = "", None
    page = document[number - 1]
    try:
        with open_text_page(page) as text_page:
            for text, box, _ in read_characters(text_page):
                if box is None:
                    pending += text
                    continue
                found = next((each for each in boxes if each.contains(*box.middle)), None)
                if found is not None:
                    before = texts.get(found, "")
                    # What PDFium inserted between characters of two annotations belongs to neither.
                    texts[found] = before + (pending if owner == found else "\n" if before else "") + text
                pending, owner = "", found
    finally:
        page.close()
    return [Fragment(text.strip(), box) for box, text in texts.items() if text.strip()]
