from __future__ import annotations

from uuid import uuid4

import pikepdf
import pytest
from pydantic import ValidationError

from shared.contracts.files.extract_text import ExtractTextParams, ExtractTextResult
from shared.contracts.kind import list_referred_files
from tests.workers.handlers.files.fixtures import LimitedChildren, ReadData
from tests.workers.handlers.files.pdf_documents import document
from workers.adapters.memory_context import MemoryContext
from workers.handlers.files import extract_text
from workers.handlers.files.extract_text import handle
from workers.outcomes import Cancelled, Failed


def extract(
    context: MemoryContext, content: bytes, name: str = "file", **params: object
) -> tuple[ExtractTextResult, str]:
    file_id = context.add_input(content, name)
    result = handle(ExtractTextParams(file_id=file_id, **params), context)
    artifact = context.artifacts[-1]
    assert (artifact.name, artifact.media_type) == ("text.txt", "text/plain")
    text = artifact.content.decode("utf-8")
    assert result.characters == len(text)
    return result, text


def failure_of(context: MemoryContext, content: bytes, **params: object) -> Failed:
    with pytest.raises(Failed) as caught:
        extract(context, content, **params)
    assert context.artifacts == []
    return caught.value


def test_a_document_set_in_columns_becomes_text_in_reading_order(context: MemoryContext, read_data: ReadData) -> None:
    result, text = extract(context, read_data("latex-news.pdf"))
    pages = text.split("\f")
    assert result.pages == len(pages) == 4
    assert pages[0].startswith("LATEX News\nIssue 30, October 2019\n")
    left, right = text.index("We know that many of you"), text.index("Our hopes\n")
    assert left < right
    assert "using the devel-\nopment formats to participate in" in text
    assert not set(text) & {"\r", "\x02", "\ufffe", "\0"}
    assert context.progress_calls == [(25, "1 of 4"), (50, "2 of 4"), (75, "3 of 4"), (100, "4 of 4")]


@pytest.mark.parametrize(
    ("pages", "wanted"),
    [
        (None, ["one", "two", "three", "four"]),
        ([2], ["two"]),
        (["2-3"], ["two", "three"]),
        ([4, "1-2"], ["four", "one", "two"]),
        (["1-3", 2, "2-4"], ["one", "two", "three", "four"]),
    ],
)
def test_pages_are_extracted_in_the_requested_order_and_once(
    context: MemoryContext, pages: list[int | str] | None, wanted: list[str]
) -> None:
    result, text = extract(context, document("one", "two", "three", "four"), pages=pages)
    assert text.split("\f") == [f"{page}\n" for page in wanted]
    assert result.pages == len(wanted)


@pytest.mark.parametrize("pages", [[4], ["1-4"], ["4-9999999"]])
def test_a_page_beyond_the_end_is_a_named_error(context: MemoryContext, pages: list[int | str]) -> None:
    for content in (document("one", "two", "three"), b"one\ftwo\fthree"):
        failed = failure_of(context, content, pages=pages)
        assert failed.type == "/problems/no-such-page"
        assert failed.data == {"pages": 3}


def test_each_line_of_a_document_ends_with_a_line_feed(context: MemoryContext) -> None:
    assert extract(context, document("one"))[1] == "one\n"
    assert extract(context, b"one")[1] == "one"


def test_an_empty_page_stays_between_form_feeds(context: MemoryContext) -> None:
    assert extract(context, document("one", "", "three"))[1] == "one\n\f\fthree\n"


def test_a_document_that_asks_for_a_password_is_a_named_error(context: MemoryContext) -> None:
    locked = document("one", encryption=pikepdf.Encryption(user="secret", owner="secret"))
    assert failure_of(context, locked).type == "/problems/encrypted-pdf"


def test_an_encrypted_document_without_a_password_is_read(context: MemoryContext) -> None:
    assert extract(context, document("one", encryption=pikepdf.Encryption(user="", owner="secret")))[1] == "one\n"


@pytest.mark.parametrize("kept", [0.001, 0.3, 0.6, 0.95])
def test_a_document_that_is_cut_short_is_unreadable(context: MemoryContext, read_data: ReadData, kept: float) -> None:
    content = read_data("latex-news.pdf")
    failed = failure_of(context, content[: int(len(content) * kept)])
    assert failed.type == "/problems/unreadable-pdf"
    assert not failed.retryable


def test_a_document_that_lacks_its_end_is_unreadable(context: MemoryContext) -> None:
    content = document(*(f"page {n}" for n in range(20)))

    assert failure_of(context, content[:-200]).type == "/problems/unreadable-pdf"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32", "cp1252"])
def test_a_text_of_any_encoding_becomes_utf_8(context: MemoryContext, encoding: str) -> None:
    wanted = "Über die Brücke fährt der müde Bär.\nGrößer als schön: die Füße.\n" * 3
    result, text = extract(context, wanted.replace("\n", "\r\n").encode(encoding), "notes.txt")
    assert text == wanted
    assert result.pages == 1


def test_cyrillic_is_recognized_by_its_letters(context: MemoryContext) -> None:
    wanted = "Съешь же ещё этих мягких французских булок, да выпей чаю.\n" * 9
    assert extract(context, wanted.encode("cp1251"))[1] == wanted


def test_a_letter_late_in_a_long_text_decides_the_encoding(context: MemoryContext) -> None:
    wanted = "plain words\n" * 120_000 + "Grüße aus Köln, schöne Füße, müde Bären\n"
    assert extract(context, wanted.encode("latin-1"), "notes.txt")[1] == wanted


def test_damaged_utf_8_is_read_as_utf_8_and_the_bytes_are_counted(context: MemoryContext) -> None:
    wanted = "Grüße aus Köln\n" * 30
    result, text = extract(context, wanted.encode() + b"caf\xe9 noir\n", "notes.txt")
    assert text == wanted + "caf\ufffd noir\n"
    assert (result.encoding, result.replaced_bytes) == ("utf-8", 1)


def test_a_text_is_read_in_the_requested_encoding(context: MemoryContext) -> None:
    result, text = extract(context, "Ян\n".encode("koi8-r"), "notes.txt", encoding="KOI8-R")
    assert (text, result.encoding, result.replaced_bytes) == ("Ян\n", "koi8-r", 0)
    context.artifacts.clear()
    failed = failure_of(context, "Grüße".encode("latin-1"), encoding="utf-8")
    assert failed.type == "/problems/unreadable-text"
    assert "not encoded in utf-8" in str(failed.detail)


def test_form_feeds_separate_the_pages_of_a_text(context: MemoryContext) -> None:
    assert extract(context, b"one\ftwo\fthree")[0].pages == 3
    assert extract(context, b"one\ftwo\fthree", pages=[3, 1])[1] == "three\fone"


def test_a_text_of_one_line_end_is_a_text(context: MemoryContext) -> None:
    result, text = extract(context, b"\n")
    assert (result.pages, text) == (1, "\n")


def test_json_and_csv_are_texts(context: MemoryContext, read_data: ReadData) -> None:
    assert extract(context, b'{"a": 1}')[1] == '{"a": 1}'
    assert extract(context, read_data("penguins.csv"))[1].startswith("species,island,")


def test_a_file_that_is_not_text_is_a_named_error(context: MemoryContext, read_data: ReadData) -> None:
    for content in (b"", bytes(100), read_data("rocket.jpg")):
        assert failure_of(context, content).type == "/problems/unreadable-text"


def test_more_text_than_a_task_may_make_is_a_named_error(
    context: MemoryContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extract_text, "MOST_TEXT_BYTES", 1000)
    for content in (document(*("many words " * 20 for _ in range(10))), "ä".encode() * 501, b"x" * 3000):
        failed = failure_of(context, content)
        assert failed.type == "/problems/output-too-large"
        assert failed.data == {"most_bytes": 1000}


def test_cancelling_ends_the_child_and_keeps_nothing(context: MemoryContext, limited_children: LimitedChildren) -> None:
    context.stop_after_progress = Cancelled()

    with pytest.raises(Cancelled):
        extract(context, document(*("words",) * 3000))
    assert len(context.progress_calls) == 1
    assert context.artifacts == []
    assert limited_children() == []


@pytest.mark.parametrize(
    ("pages", "place"),
    [
        ([], ("pages",)),
        ([0], ("pages", 0)),
        ([1, "3-2"], ("pages", 1)),
        (["1-"], ("pages", 0)),
        (["1"], ("pages", 0)),
        ([True], ("pages", 0)),
        ([1.5], ("pages", 0)),
        ("1-3", ("pages",)),
        ([1] * 1001, ("pages",)),
    ],
)
def test_the_error_of_invalid_pages_names_their_place(pages: object, place: tuple[int | str, ...]) -> None:
    with pytest.raises(ValidationError) as caught:
        ExtractTextParams.model_validate({"file_id": str(uuid4()), "pages": pages})
    assert [error["loc"] for error in caught.value.errors()] == [place]


def test_the_contract_accepts_pdf_and_text_only() -> None:
    (referred,) = list_referred_files(ExtractTextParams(file_id=uuid4()))
    assert all(
        referred.reference.can_read(t) for t in ("application/pdf", "text/plain", "text/csv", "application/json")
    )
    assert not any(referred.reference.can_read(t) for t in ("image/png", "application/zip"))
