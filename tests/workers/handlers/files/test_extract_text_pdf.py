"""What `files.extract_text` reads from the pages of a PDF: line ends, rotation, form fields and annotations."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import pikepdf
import pytest
from pikepdf import Array, Dictionary, Name, String

from tests.workers.handlers.files.pdf_documents import (
    add_page,
    annotation,
    appearance,
    document,
    field,
    form,
    lines_at,
    save,
)
from workers.handlers.files._extract_pdf import run_in_child
from workers.outcomes import Failed

PASSWORD_FLAG, MULTILINE_FLAG, COMBO_FLAG, MULTISELECT_FLAG = 1 << 13, 1 << 12, 1 << 17, 1 << 21
HIDDEN_FLAG, NO_VIEW_FLAG = 2, 32
LINES = ((30, 350, "First line"), (30, 336, "Second line"), (30, 322, "Third line"))


class Extract(Protocol):
    def __call__(self, content: bytes) -> str: ...


@pytest.fixture
def extract(tmp_path: Path) -> Extract:
    """Extracts the text of a document in this process. Returns its pages without the line feed at the end of each."""

    def run(content: bytes) -> str:
        source, target = tmp_path / "document.pdf", tmp_path / "text.txt"
        source.write_bytes(content)
        request = {"path": str(source), "text_path": str(target), "pages": None, "most_bytes": 1 << 20}
        run_in_child(request, lambda percent, message: None)
        pages = target.read_text().split("\f")
        assert all(page.endswith("\n") or not page for page in pages)
        return "\f".join(page.removesuffix("\n") for page in pages)

    return run


def turn(box: Sequence[float], rotate: int) -> tuple[float, ...]:
    """Return the box on the unrotated page that stands at `box` when the page is rotated."""
    left, bottom, right, top = box
    match rotate:
        case 90:
            return (400 - top, left, 400 - bottom, right)
        case 180:
            return (400 - right, 400 - top, 400 - left, 400 - bottom)
        case 270:
            return (bottom, 400 - right, top, 400 - left)
        case _:
            return tuple(box)


def test_hyphens_and_line_ends_at_the_end_of_a_line_stay(extract: Extract) -> None:
    lines = [
        "Patient: Roe",
        "Blood group: A-",
        "Allergies: none",
        "Final grade: B-",
        "Next term: open",
        "part AB-",
        "12 of the set",
        "https://example.org/my-",
        "page.html and price-",
        "determining factors",
    ]
    content = lines_at(*((30, 380 - 14 * number, line) for number, line in enumerate(lines)))

    assert extract(document(content)).split("\n") == lines


def test_a_soft_hyphen_at_the_end_of_a_line_is_a_hyphen(extract: Extract) -> None:
    assert extract(document(lines_at((30, 350, "deter\xad"), (30, 336, "mined")))) == "deter-\nmined"


def test_a_hyphen_behind_letters_beyond_the_basic_plane_stays(extract: Extract) -> None:
    pdf = pikepdf.new()
    page = add_page(pdf, lines_at((30, 350, "~~~ well-"), (30, 336, "known - ~")))
    mapping = b"1 begincodespacerange <00> <ff> endcodespacerange 1 beginbfchar <7e> <D83DDE42> endbfchar"
    page.Resources.Font.F1.ToUnicode = pdf.make_stream(mapping)

    assert extract(save(pdf)) == "🙂🙂🙂 well-\nknown - 🙂"


@pytest.mark.parametrize("unicode", [b"0000", b"FFFE", b"0002"])
def test_a_character_without_a_meaning_is_no_line_end(extract: Extract, unicode: bytes) -> None:
    pdf = pikepdf.new()
    page = add_page(pdf, lines_at((30, 350, "a~b~"), (30, 336, "c-"), (30, 322, "d")))
    mapping = b"1 begincodespacerange <00> <ff> endcodespacerange 1 beginbfchar <7e> <%s> endbfchar" % unicode
    page.Resources.Font.F1.ToUnicode = pdf.make_stream(mapping)

    assert extract(save(pdf)) == "ab\nc-\nd"


@pytest.mark.parametrize("rotate", [0, 90, 180, 270])
@pytest.mark.parametrize("text_rotation", [0, 90, 180, 270])
def test_lines_of_a_rotated_page_are_in_reading_order(extract: Extract, rotate: int, text_rotation: int) -> None:
    content = lines_at(*LINES, rotate=text_rotation)

    assert extract(document(content, rotate=rotate)) == "First line\nSecond line\nThird line"


@pytest.mark.parametrize("rotation", [90, 180, 270])
def test_sideways_lines_on_an_upright_page_are_in_reading_order(extract: Extract, rotation: int) -> None:
    upright = lines_at(*((30, 350 - 14 * number, f"An upright line, number {number}") for number in range(6)))
    sideways = lines_at((150, 150, "One"), (150, 136, "Two"), (150, 122, "Three"), rotate=rotation)

    text = extract(document(upright + b" " + sideways))

    wanted = [f"An upright line, number {number}" for number in range(6)]
    assert text.split("\n") == [*wanted, "One", "Two", "Three"]


def test_the_value_of_a_field_stands_behind_its_label(extract: Extract) -> None:
    content = lines_at((30, 350, "Name:"), (250, 350, "Born:"), (30, 320, "City:"), (30, 300, "Thank you."))
    fields = [
        field("Tx", (80, 345, 240, 365), String("Jane Example")),
        field("Tx", (300, 345, 390, 365), String("1990")),
        field("Tx", (80, 315, 240, 335), String("Zürich")),
    ]

    assert extract(form(content, fields)) == "Name: Jane Example Born: 1990\nCity: Zürich\nThank you."


@pytest.mark.parametrize("rotate", [90, 180, 270])
def test_the_value_of_a_field_on_a_rotated_page_stands_behind_its_label(extract: Extract, rotate: int) -> None:
    content = lines_at((30, 350, "Name:"), (30, 320, "City:"), rotate=rotate)
    fields = [
        field("Tx", turn((80, 345, 240, 365), rotate), String("Jane Example")),
        field("Tx", turn((80, 315, 240, 335), rotate), String("Paris")),
    ]

    assert extract(form(content, fields, rotate=rotate)) == "Name: Jane Example\nCity: Paris"


def test_a_value_of_several_lines_keeps_them(extract: Extract) -> None:
    content = lines_at((30, 350, "Remarks:"), (30, 280, "End"))
    remarks = field("Tx", (90, 300, 390, 365), String("one\rtwo\r\nthree"), Ff=MULTILINE_FLAG)

    assert extract(form(content, [remarks])) == "Remarks: one\ntwo\nthree\nEnd"


def test_choice_fields_show_the_labels_of_what_is_selected(extract: Extract) -> None:
    countries = Array([Array([String("de"), String("Germany")]), Array([String("fr"), String("France")])])
    letters = Array([String("a"), String("b"), String("c")])
    fields = [
        field("Ch", (90, 345, 390, 365), String("fr"), Ff=COMBO_FLAG, Opt=countries),
        field("Ch", (90, 300, 390, 340), Array([String("a"), String("c")]), Ff=MULTISELECT_FLAG, Opt=letters),
    ]

    text = extract(form(lines_at((30, 350, "Country:"), (30, 330, "Letters:")), fields))

    assert text == "Country: France\nLetters: a\nc"


def test_a_check_box_that_is_on_shows_a_mark(extract: Extract) -> None:
    states = Dictionary(N=Dictionary(Yes=Dictionary(), Off=Dictionary()))
    fields = [
        field("Btn", (10, 347, 25, 362), Name.Yes, AS=Name.Yes, AP=states),
        field("Btn", (10, 317, 25, 332), Name.Off, AS=Name.Off, AP=states),
    ]

    assert extract(form(lines_at((30, 350, "I agree"), (30, 320, "I object")), fields)) == "☑ I agree\nI object"


@pytest.mark.parametrize("entries", [{"F": HIDDEN_FLAG}, {"F": NO_VIEW_FLAG}, {"Ff": PASSWORD_FLAG}])
def test_what_a_field_hides_is_not_in_the_text(extract: Extract, entries: dict[str, int]) -> None:
    widget = field("Tx", (80, 345, 240, 365), String("hidden"), **entries)

    assert extract(form_with_appearance(widget, "hidden")) == "Label:"


def form_with_appearance(widget: Dictionary, text: str) -> bytes:
    pdf = pikepdf.open(io.BytesIO(form(lines_at((30, 350, "Label:")), [widget])))
    pdf.Root.AcroForm.Fields[0].AP = Dictionary(N=appearance(pdf, text))
    return save(pdf)


def test_an_appearance_without_a_value_is_read(extract: Extract) -> None:
    button = field("Btn", (80, 345, 240, 365), Ff=1 << 16)

    assert extract(form_with_appearance(button, "Send")) == "Label: Send"


def test_free_text_and_stamps_are_read_where_they_stand(extract: Extract) -> None:
    pdf = pikepdf.new()
    page = add_page(pdf, lines_at((30, 350, "Total: 12"), (30, 300, "Yours,"), (30, 200, "Page 1")))
    stamp = annotation("Stamp", (30, 330, 230, 348), AP=Dictionary(N=appearance(pdf, "PAID")))
    page.Annots = Array([stamp, annotation("FreeText", (30, 250, 200, 270), Contents=String("Jane Example"))])

    assert extract(save(pdf)) == "Total: 12\nPAID\nYours,\nJane Example\nPage 1"


def test_comments_and_links_are_not_in_the_text(extract: Extract) -> None:
    comments = [
        annotation(subtype, (30, 340, 200, 360), Contents=String("a comment"))
        for subtype in ("Text", "Highlight", "Underline", "StrikeOut", "Popup", "Link")
    ]

    assert extract(form(lines_at((30, 350, "Words")), annotations=comments)) == "Words"


def test_a_page_with_nothing_but_annotations_has_their_text(extract: Extract) -> None:
    notes = [annotation("FreeText", (30, y, 200, y + 20), Contents=String(f"note {y}")) for y in (100, 300)]

    assert extract(form(b"", annotations=notes)) == "note 300\nnote 100"


@pytest.mark.parametrize("fields", [[], [field("Tx", (200, 240, 380, 265), "Value")]], ids=["content", "with a field"])
def test_actual_text_stands_in_the_place_of_what_is_drawn(extract: Extract, fields: list[Dictionary]) -> None:
    content = (
        b"BT /F1 12 Tf 20 250 Td (e) Tj /Span <</ActualText (ffi)>> BDC (x) Tj EMC (cient in ) Tj "
        b"/Span <</ActualText <FEFF6771 4EAC>>> BDC (a) Tj (b) Tj EMC ET"
    )

    assert extract(form(content, fields)).startswith("efficient in 東京")


def test_damaged_annotations_cost_nothing_but_themselves(extract: Extract) -> None:
    pdf = pikepdf.new()
    page = add_page(pdf, lines_at((30, 350, "Words")))
    page.Annots = Array([Dictionary(), 7, annotation("Stamp", (1, 2))])

    assert extract(save(pdf)) == "Words"


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content + b"\n<html>" + b"x" * 5000,
        lambda content: content + bytes(100_000),
        lambda content: content.removesuffix(b"\n").removesuffix(b"%%EOF"),
        lambda content: b"HTTP/1.1 200 OK\r\n\r\n" + content,
        lambda content: b"\xef\xbb\xbf" + content,
        lambda content: b"\0" * 500 + content,
    ],
)
def test_bytes_around_a_document_do_not_matter(extract: Extract, change: Callable[[bytes], bytes]) -> None:
    assert extract(change(document("one", "two"))) == "one\ftwo"


def test_a_revision_that_is_cut_short_is_unreadable(extract: Extract) -> None:
    content = document("one") + b"\n7 0 obj\n<< /Type /Page"

    with pytest.raises(Failed, match="unreadable-pdf"):
        extract(content)
