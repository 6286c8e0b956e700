"""Detection of media types from bytes, and safe file names."""

from __future__ import annotations

import gzip
import io
import time
import zipfile
from pathlib import Path

import duckdb
import openpyxl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from shared.media_types import HEAD_BYTES, detect_media_type, safe_file_name

DATA = Path(__file__).parent.parent / "data"


def picture(format: str, **options: object) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(stream, format, **options)
    return stream.getvalue()


def archive(**members: str) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members.items():
            file.writestr(name.replace("__", "/").replace("_dot_", "."), content)
    return stream.getvalue()


def workbook() -> bytes:
    stream = io.BytesIO()
    openpyxl.Workbook().save(stream)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("name", "media_type"),
    [
        ("rocket.jpg", "image/jpeg"),
        ("coffee.png", "image/png"),
        ("latex-news.pdf", "application/pdf"),
        ("penguins.csv", "text/csv"),
        ("seattle-weather.csv", "text/csv"),
    ],
)
def test_real_files_are_what_they_are_without_and_against_their_name(name: str, media_type: str) -> None:
    head = (DATA / name).read_bytes()[:HEAD_BYTES]
    assert detect_media_type(head) == media_type
    assert detect_media_type(head, name) == media_type
    if not media_type.startswith("text/"):
        assert detect_media_type(head, "lie.txt") == media_type


@pytest.mark.parametrize(
    ("format", "media_type"),
    [
        ("JPEG", "image/jpeg"),
        ("PNG", "image/png"),
        ("WEBP", "image/webp"),
        ("AVIF", "image/avif"),
        ("GIF", "image/gif"),
        ("TIFF", "image/tiff"),
        ("BMP", "image/bmp"),
        ("PDF", "application/pdf"),
    ],
)
def test_pictures_of_every_kind_are_known(format: str, media_type: str) -> None:
    assert detect_media_type(picture(format)) == media_type


@pytest.mark.parametrize(
    ("head", "media_type"),
    [
        (b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00mif1heic", "image/heic"),
        (b"\x00\x00\x00\x1cftypmif1\x00\x00\x00\x00mif1avifmiaf", "image/avif"),
        (b"\x00\x00\x00\x18ftypmif1\x00\x00\x00\x00mif1heix", "image/heic"),
        (b"\x00\x00\x00\x14ftypmif1\x00\x00\x00\x00mif1", "image/heif"),
        (b"\x00\x00\x00\x18ftypisom\x00\x00\x02\x00isommp41", "video/mp4"),
        (b"\xff\xff\xff\xffftypnone\x00", "application/octet-stream"),
        (b"BM but only a text", "text/plain"),
        (b"RIFF\x00\x00\x00\x00NONE", "application/octet-stream"),
        (b"", "application/octet-stream"),
        (b"\x00\x01\x02\x03", "application/octet-stream"),
        (b" \n\n", "text/plain"),
        (b"MIME junk\r\n%PDF-1.4\n1 0 obj <<", "application/pdf"),
        (b"How to write a PDF:\n%PDF-1.4 comes first\n", "text/plain"),
        (gzip.compress(b"a,b\n1,2\n", mtime=0), "application/gzip"),
        (b"<!doctype HTML><title>x</title>", "text/html"),
        (b"  <html lang=en>", "text/html"),
        (b"<!-- made by hand --><p>Hello", "text/html"),
        (b"<phantom>", "text/plain"),
        (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "image/svg+xml"),
        (b'<!DOCTYPE svg PUBLIC "-//W3C//DTD SVG 1.1//EN" "svg11.dtd" >\n<svg />', "image/svg+xml"),
        (b'<!DOCTYPE svg [ <!ENTITY a "b"> ] >\n<svg />', "image/svg+xml"),
        (b'<?xml version="1.0"?>\n<!-- x -->\n<svg:svg xmlns:svg="http://www.w3.org/2000/svg"/>', "image/svg+xml"),
        (b'<?xml version="1.0"?><feed/>', "text/xml"),
        (b"Hello, world.", "text/plain"),
        ("Grüße, Jürgen\nund ein paar Worte mehr".encode("latin-1"), "text/plain"),
        ("Grüße".encode("utf-16"), "text/plain"),
        ("name;größe\nä;1\n".encode("utf-16"), "text/csv"),
        ("name;größe\nä;1\n".encode("utf-16-le"), "text/csv"),
        ("имя,город\nИван,Москва\n".encode("utf-16-be"), "text/csv"),
        ('[{"name": "Müller"}]'.encode("utf-16-be"), "application/json"),
        ("Grüße an alle".encode("utf-32-le"), "text/plain"),
        (b"a,b\0c,d\0\n1,", "application/octet-stream"),
        ("name;größe\nä;1\nb;2\n".encode("latin-1"), "text/csv"),
        (b"a\tb\n1\t2\n", "text/csv"),
        (b'id,text\n1,"two\nlines, with a comma"\n2,x\n', "text/csv"),
        (b"Dear Sir, or Madam,\nI write, as you know, to say:\nno.\n", "text/plain"),
        (b'{"a": [1, 2, {"b": null}]}', "application/json"),
        (b'{"a": 1}\n{"a": 2}\n', "application/json"),
        (b"\xef\xbb\xbf[]", "application/json"),
        (b"\xef\xbb\xbf%PDF-1.4\n%\xe2\xe3\n1 0 obj <<", "application/pdf"),
        (bytes(900) + b"%PDF-1.4\r1 0 obj <<", "application/pdf"),
        (b"A file begins with %PDF-1.4 and has objects, such as 1 0 obj.\n", "text/plain"),
        (b"[1] Knuth, The Art of Computer Programming", "text/plain"),
        (b"{{ template }}", "text/plain"),
        (b"[section]\nkey = value\n", "text/plain"),
    ],
)
def test_bytes_have_the_type_of_their_specification(head: bytes, media_type: str) -> None:
    assert detect_media_type(head) == media_type


def test_documents_in_a_zip_archive_are_recognized(tmp_path: Path) -> None:
    assert detect_media_type(workbook()).endswith("spreadsheetml.sheet")
    assert detect_media_type(archive(a_dot_txt="x")) == "application/zip"
    letter = archive(**{"[Content_Types]_dot_xml": "<Types/>", "_rels/_dot_rels": "", "word__document_dot_xml": "<w/>"})
    assert detect_media_type(letter).endswith("wordprocessingml.document")
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as file:
        file.writestr("mimetype", "application/vnd.oasis.opendocument.text")
        file.writestr("content.xml", "<x/>")
    assert detect_media_type(stream.getvalue()) == "application/vnd.oasis.opendocument.text"


def test_parquet_is_recognized(tmp_path: Path) -> None:
    duckdb.connect().execute(f"COPY (SELECT 1 AS a) TO '{tmp_path / 't.parquet'}'")
    assert detect_media_type((tmp_path / "t.parquet").read_bytes()) == "application/vnd.apache.parquet"


def test_json_longer_than_the_head_is_recognized() -> None:
    long = b'[{"name": "' + b"x" * HEAD_BYTES * 2 + b'"}]'
    assert detect_media_type(long) == "application/json"
    assert detect_media_type(b"[" + b'{"a": 1.5e-3, "b": [true]},\n' * 10_000) == "application/json"


@pytest.mark.parametrize(
    ("head", "name", "media_type"),
    [
        (b'[{"id": 1, "paid": true}, {"id": 2, "paid": undefined}]', "orders.json", "application/json"),
        (b"{'id': 1}\n{'id': 2}\n", "orders.jsonl", "application/json"),
        (b"nothing of the kind\n", "orders.NDJSON", "application/json"),
        (b"[{'id': 1, 'x': None},\n{'id': 2, 'x': None},\n]\n", "orders.csv", "application/json"),
        (b"{id: 1, x: 2}\n{id: 2, x: 3}\n", "orders.csv", "application/json"),
        (b'// exported, today\n[{"a": 1,\n"b": 2}]', "orders.tsv", "application/json"),
        (b"/* exported */ [1, undefined]\n[2, 3]", "orders.csv", "application/json"),
        (b"[Name],[City]\nAnn,Bonn\n", None, "text/csv"),
        (b"[2024-01-31], started\n[2024-02-01], ended\n", None, "text/csv"),
        (b'[{"id": 1, "paid": undefined}]', "notes.txt", "text/plain"),
    ],
)
def test_text_that_begins_as_json_is_never_csv(head: bytes, name: str | None, media_type: str) -> None:
    assert detect_media_type(head, name) == media_type


def test_a_text_with_a_letter_cut_at_the_end_of_the_head_is_a_text() -> None:
    text = ("x" + "ä" * HEAD_BYTES).encode()
    assert detect_media_type(text[:HEAD_BYTES]) == "text/plain"


def test_the_name_decides_only_between_texts() -> None:
    assert detect_media_type(b"one column\nof words\n", "words.csv") == "text/csv"
    assert detect_media_type(b"a,b\n1,2\n", "notes.TXT") == "text/plain"
    assert detect_media_type(b"# Title\n", "README.md") == "text/markdown"
    assert detect_media_type(b"%PDF-1.7\n", "table.csv") == "application/pdf"
    assert detect_media_type(b"\x00\x01", "table.csv") == "application/octet-stream"


@settings(deadline=None)
@given(st.binary(max_size=400), st.none() | st.text(max_size=20))
def test_no_bytes_raise_an_error(head: bytes, name: str | None) -> None:
    assert "/" in detect_media_type(head, name)


@settings(deadline=None)
@given(
    st.text(alphabet='[]{}":,\\ \n\r\t<>!-?ab1.\x00é', max_size=200), st.sampled_from(["utf-8", "utf-16", "latin-1"])
)
def test_no_text_raises_an_error(text: str, encoding: str) -> None:
    assert "/" in detect_media_type(text.encode(encoding))


@pytest.mark.parametrize(
    "head",
    [
        b"[" * HEAD_BYTES,
        b'{"a":' * 20_000,
        b"<!--" * 20_000,
        b'"' * HEAD_BYTES,
        b"/*" * 20_000,
        b"[" + b" " * HEAD_BYTES,
        b"," * HEAD_BYTES,
        b" " * HEAD_BYTES,
        b"<!DOCTYPE svg" + b" " * HEAD_BYTES,
        b"<!DOCTYPE" + b" " * HEAD_BYTES,
        b"<!DOCTYPE svg [" + b" " * HEAD_BYTES,
        b"<!DOCTYPE svg []" + b" " * HEAD_BYTES,
        b"<?xml" + b"?" * HEAD_BYTES,
        b"<!---->" * 10_000,
        b"<" + b"a" * HEAD_BYTES,
        b"1" * HEAD_BYTES,
        b"\\" * HEAD_BYTES,
    ],
)
def test_malicious_heads_take_little_time(head: bytes) -> None:
    began = time.process_time()

    assert detect_media_type(head)
    assert time.process_time() - began < 1


@pytest.mark.parametrize(
    ("given_name", "safe"),
    [
        (None, "file"),
        ("", "file"),
        (".", "file"),
        ("..", "file"),
        ("...", "file"),
        ("/", "file"),
        (" \t\n", "file"),
        ("report.pdf", "report.pdf"),
        ("../../etc/passwd", "passwd"),
        (r"C:\Users\me\photo.jpg", "photo.jpg"),
        ("..\\..\\boot.ini", "boot.ini"),
        ("a\x00b\x1f\x7fc\x85.txt", "abc.txt"),
        ("photo\u202egpj.exe", "photogpj.exe"),
        ("a\u2066b\u2069\u200f\ufeffc.txt", "abc.txt"),
        ("cafe\u0301.txt", "café.txt"),
        ('a<b>c:d"e|f?g*h.txt', "a_b_c_d_e_f_g_h.txt"),
        ("Größe 東京 🙂.txt", "Größe 東京 🙂.txt"),
        (".gitignore", ".gitignore"),
        ("trailing. . .", "trailing"),
        ("two  spaces.txt", "two spaces.txt"),
        ("lone\ud800surrogate.txt", "lonesurrogate.txt"),
        ("می\u200cخواهم.pdf", "می\u200cخواهم.pdf"),
        ("क्\u200dष 👩\u200d💻.txt", "क्\u200dष 👩\u200d💻.txt"),
        ("\u200da\u200d\u200db\u200c .\u200ctxt\u200d", "ab .txt"),
    ],
)
def test_names_become_safe(given_name: str | None, safe: str) -> None:
    assert safe_file_name(given_name) == safe


def test_long_names_keep_their_extension() -> None:
    assert safe_file_name("x" * 400 + ".jpeg") == "x" * 145 + ".jpeg"
    wide = safe_file_name("東" * 400 + ".pdf")
    assert wide.endswith("東.pdf")
    assert len(wide.encode()) <= 255
    assert len(safe_file_name("." + "x" * 400)) == 150


@settings(deadline=None)
@given(st.text(max_size=600))
def test_a_safe_name_is_safe_and_stays_the_same(name: str) -> None:
    safe = safe_file_name(name)
    assert safe
    assert len(safe) <= 150
    assert len(safe.encode()) <= 255
    assert not set(safe) & set('/\\<>:"|?*\x00')
    assert safe.strip(". ")
    assert safe_file_name(safe) == safe
