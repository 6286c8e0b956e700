from __future__ import annotations

import hashlib
import io
import json
import zlib
from pathlib import Path

import duckdb
import pikepdf
import psutil
import pytest
from PIL import Image
from pydantic import ValidationError

from shared.contracts.files.inspect import InspectParams, InspectResult, TableFacts
from tests.workers.handlers.files.fixtures import Encode, ReadData
from tests.workers.handlers.files.pdf_documents import document
from workers.adapters.memory_context import MemoryContext
from workers.handlers.files.inspect import handle
from workers.outcomes import Failed, TimedOut


def inspect(context: MemoryContext, content: bytes, name: str = "file", **params: object) -> InspectResult:
    return handle(InspectParams(file_id=context.add_input(content, name), **params), context)


def failure_of(context: MemoryContext, content: bytes, name: str = "file") -> Failed:
    with pytest.raises(Failed) as caught:
        inspect(context, content, name)
    return caught.value


def columns_of(table: TableFacts | None) -> list[tuple[str, str, int]]:
    assert table is not None
    return [(column.name, column.type, column.nulls) for column in table.columns]


def test_the_facts_of_a_photo_are_returned(context: MemoryContext, read_data: ReadData) -> None:
    content = read_data("rocket.jpg")
    result = inspect(context, content)
    assert (result.media_type, result.size) == ("image/jpeg", len(content))
    assert result.sha256 == hashlib.sha256(content).hexdigest()
    assert result.image is not None
    assert result.image.model_dump() == {
        "width": 640,
        "height": 427,
        "format": "jpeg",
        "frames": 1,
        "orientation": 1,
        "has_alpha": False,
        "exif": {},
    }
    assert (result.pdf, result.table, result.text) == (None, None, None)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "AVIF"])
def test_exif_has_names_and_the_place_only_on_request(context: MemoryContext, encode: Encode, format: str) -> None:
    exif = Image.Exif()
    exif[0x010F] = "Maker"
    exif[0x0112] = 6
    exif[0x8825] = {1: "N", 2: (47.0, 30.0, 0.5), 3: "E", 4: (9.0, 45.0, 0.0)}
    exif.get_ifd(0x8769)[0x829A] = 0.004
    content = encode(Image.new("RGB", (60, 40)), format, exif=exif)
    plain, full = inspect(context, content).image, inspect(context, content, include_gps=True).image
    assert plain is not None
    assert full is not None
    assert plain.exif["Make"] == "Maker"
    assert plain.exif["ExposureTime"] == pytest.approx(0.004)
    assert "47" not in json.dumps(plain.exif)
    assert not any("gps" in name.lower() for name in plain.exif)
    assert full.exif["GPSInfo"]["GPSLatitude"] == [47.0, 30.0, 0.5]
    assert full.exif["GPSInfo"]["GPSLongitudeRef"] == "E"
    if format != "AVIF":
        # An AVIF is turned by its container, and libheif has done so.
        assert (plain.width, plain.height, plain.orientation) == (60, 40, 6)


def test_damaged_exif_is_left_out(context: MemoryContext, encode: Encode) -> None:
    exif = Image.Exif()
    exif[0x010F] = "Maker" * 20
    content = encode(Image.new("RGB", (60, 40)), "JPEG", exif=exif)
    at = content.index(b"Exif\0\0")
    broken = content[: at + 14] + b"\xff" * 40 + content[at + 54 :]
    image = inspect(context, broken).image
    assert image is not None
    assert image.width == 60


@pytest.mark.parametrize(
    ("format", "mode", "has_alpha"),
    [
        ("PNG", "RGBA", True),
        ("PNG", "LA", True),
        ("PNG", "L", False),
        ("WEBP", "RGBA", True),
        ("AVIF", "RGBA", True),
        ("TIFF", "RGBA", True),
        ("TIFF", "CMYK", False),
        ("GIF", "RGB", False),
        ("BMP", "RGB", False),
    ],
)
def test_the_facts_of_every_picture_format_are_returned(
    context: MemoryContext, encode: Encode, format: str, mode: str, has_alpha: bool
) -> None:
    image = inspect(context, encode(Image.new(mode, (33, 21)), format)).image
    assert image is not None
    assert (image.width, image.height, image.format, image.frames) == (33, 21, format.lower(), 1)
    assert image.has_alpha is has_alpha


def test_frames_that_a_png_only_announces_are_not_counted(context: MemoryContext, encode: Encode) -> None:
    still = encode(Image.new("RGB", (8, 8)), "PNG")
    chunk = b"acTL" + (2**31 - 1).to_bytes(4, "big") + bytes(4)
    announced = len(chunk[4:]).to_bytes(4, "big") + chunk + zlib.crc32(chunk).to_bytes(4, "big")
    end_of_header = 8 + 25

    image = inspect(context, still[:end_of_header] + announced + still[end_of_header:]).image

    assert image is not None
    assert image.frames == 1


@pytest.mark.parametrize("format", ["GIF", "WEBP", "TIFF", "AVIF", "PNG"])
def test_frames_are_counted(context: MemoryContext, encode: Encode, format: str) -> None:
    frames = [Image.new("RGB", (32, 24), (n * 60, 0, 0)) for n in range(4)]
    image = inspect(context, encode(frames[0], format, save_all=True, append_images=frames[1:])).image
    assert image is not None
    assert (image.width, image.height, image.frames) == (32, 24, 4)


def test_a_decompression_bomb_is_refused_by_its_header(context: MemoryContext, png_bomb: bytes) -> None:
    before = psutil.Process().memory_info().rss
    failed = failure_of(context, png_bomb)
    assert failed.type == "/problems/image-too-large"
    assert not failed.retryable
    assert psutil.Process().memory_info().rss - before < 20 << 20


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "AVIF", "GIF", "TIFF", "BMP"])
def test_a_picture_that_is_cut_short_is_unreadable(
    context: MemoryContext, encode: Encode, read_data: ReadData, format: str
) -> None:
    with Image.open(io.BytesIO(read_data("coffee.png"))) as image:
        whole = encode(image.convert("RGB"), format)
    assert failure_of(context, whole[: len(whole) * 2 // 3]).type == "/problems/unreadable-image"


def test_the_pages_and_the_title_of_a_document_are_returned(context: MemoryContext, read_data: ReadData) -> None:
    news = inspect(context, read_data("latex-news.pdf"))
    assert news.media_type == "application/pdf"
    assert news.pdf is not None
    assert news.pdf.model_dump() == {"pages": 4, "title": None, "encrypted": False}
    titled = inspect(context, document("one", "two", title="Größe 東京")).pdf
    assert titled is not None
    assert (titled.pages, titled.title) == (2, "Größe 東京")


@pytest.mark.parametrize(
    ("title", "wanted"),
    [
        ("می\u200cخواهم", "می\u200cخواهم"),
        ("क्\u200dष", "क्\u200dष"),
        ("👩\u200d💻 10\u00a0km\u3000x", "👩\u200d💻 10\u00a0km\u3000x"),
        ("one\r\ntwo\tthree", "one two three"),
        ("\u200fשלום\u200e", "\u200fשלום\u200e"),
        ("photo\u202egpj.exe\x00\x07", "photogpj.exe"),
        ("\u00a0 \n", None),
    ],
)
def test_a_title_keeps_its_spaces_and_joiners(context: MemoryContext, title: str, wanted: str | None) -> None:
    facts = inspect(context, document("text", title=title)).pdf

    assert facts is not None
    assert facts.title == wanted


def test_bytes_around_a_document_do_not_matter(context: MemoryContext) -> None:
    content = document("one", "two", title="A title")
    for changed in (content + b"x" * 5000, content + bytes(100_000), b"\xef\xbb\xbf" + content, b"\1" * 99 + content):
        result = inspect(context, changed)
        assert result.media_type == "application/pdf"
        assert result.pdf is not None
        assert (result.pdf.pages, result.pdf.title) == (2, "A title")


def test_an_encrypted_document_is_reported_as_encrypted(context: MemoryContext) -> None:
    locked = inspect(context, document(*"abc", encryption=pikepdf.Encryption(user="secret", owner="secret"))).pdf
    assert locked is not None
    assert locked.model_dump() == {"pages": None, "title": None, "encrypted": True}
    open_to_read = inspect(context, document(*"abc", encryption=pikepdf.Encryption(user="", owner="secret"))).pdf
    assert open_to_read is not None
    assert (open_to_read.pages, open_to_read.encrypted) == (3, True)


def test_a_damaged_document_is_unreadable(context: MemoryContext, read_data: ReadData) -> None:
    content = read_data("latex-news.pdf")
    for broken in (content[: len(content) // 2], b"%PDF-1.7\n", b"%PDF-1.7\n" + bytes(2000)):
        assert failure_of(context, broken).type == "/problems/unreadable-pdf"


def test_the_rows_types_and_missing_values_of_a_table_are_returned(context: MemoryContext, read_data: ReadData) -> None:
    penguins = inspect(context, read_data("penguins.csv"), "penguins.csv")
    assert penguins.media_type == "text/csv"
    assert penguins.table is not None
    assert penguins.table.rows == 344
    assert ("body_mass_g", "BIGINT", 2) in columns_of(penguins.table)
    assert ("sex", "VARCHAR", 11) in columns_of(penguins.table)
    weather = inspect(context, read_data("seattle-weather.csv"), "seattle-weather.csv").table
    assert weather is not None
    assert weather.rows == 1461
    assert columns_of(weather)[:2] == [("date", "DATE", 0), ("precipitation", "DOUBLE", 0)]


def test_a_table_is_read_with_the_requested_encoding_and_header(context: MemoryContext) -> None:
    content = "Ян,Москва\nЯна,Казань\n".encode("koi8-r")
    table = inspect(context, content, "people.csv", encoding="koi8-r", header=False).table
    assert table is not None
    assert table.rows == 2
    assert columns_of(table) == [("column0", "VARCHAR", 0), ("column1", "VARCHAR", 0)]
    assert (table.encoding, table.replaced_bytes) == ("koi8-r", 0)


def test_broken_json_is_no_table(context: MemoryContext) -> None:
    failed = failure_of(context, b'[{"id": 1}, {"id": undefined}]', "orders.json")
    assert failed.type == "/problems/unreadable-table"
    assert "not valid JSON: line 1, column 20" in str(failed.detail)


def test_odd_column_names_survive(context: MemoryContext) -> None:
    table = inspect(context, b'"a ""b"") --",a,a,\n1,2,3,4\n,,5,6\n', "odd.csv").table
    assert table is not None
    assert table.rows == 2
    assert table.columns[0].model_dump() == {"name": 'a "b") --', "type": "BIGINT", "nulls": 1}
    assert len({column.name for column in table.columns}) == 4


def test_a_value_far_down_decides_the_type_too(context: MemoryContext) -> None:
    content = b"n,m\n" + b"1,2\n" * 30_000 + b"one,2\n"
    assert columns_of(inspect(context, content).table) == [("n", "VARCHAR", 0), ("m", "BIGINT", 0)]


def test_svg_is_a_text(context: MemoryContext) -> None:
    result = inspect(context, b'<svg xmlns="http://www.w3.org/2000/svg">\n</svg>\n')
    assert result.media_type == "image/svg+xml"
    assert result.text is not None
    assert (result.text.encoding, result.text.lines, result.image) == ("utf-8", 2, None)


def test_parquet_and_json_are_tables(context: MemoryContext, tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    duckdb.connect().execute(
        f"COPY (SELECT i::INTEGER AS i, CASE WHEN i > 0 THEN 'x' END AS t FROM range(3) r(i)) TO '{path}'"
    )
    wanted = [("i", "INTEGER", 0), ("t", "VARCHAR", 1)]
    assert columns_of(inspect(context, path.read_bytes()).table) == wanted
    array, lines = b'[{"i": 0}, {"i": 1, "t": "x"}]', b'{"i": 0}\n{"i": 1, "t": "x"}\n'
    for content in (array, lines):
        fresh = MemoryContext(tmp_path / hashlib.sha256(content).hexdigest())
        result = inspect(fresh, content)
        assert result.media_type == "application/json"
        assert columns_of(result.table) == [("i", "BIGINT", 0), ("t", "VARCHAR", 1)]


def test_a_null_character_in_a_name_or_a_type_is_replaced(context: MemoryContext) -> None:
    content = b'{"a\\u0000b": 1, "in": {"c\\u0000": 2}}'
    assert columns_of(inspect(context, content, "t.json").table) == [
        ("a\ufffdb", "BIGINT", 0),
        ("in", 'STRUCT("c\ufffd" BIGINT)', 0),
    ]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_an_array_of_objects_has_a_row_for_each_in_any_encoding(context: MemoryContext, encoding: str) -> None:
    table = inspect(
        context, '[{"name": "Zoë", "of": null},\n{"name": "Ada", "of": null}]\n'.encode(encoding), "t.json"
    ).table
    assert table is not None
    assert table.rows == 2
    assert columns_of(table) == [("name", "VARCHAR", 0), ("of", "NULL", 2)]


def test_a_large_json_value_is_read_and_one_that_is_too_large_is_a_named_error(context: MemoryContext) -> None:
    start, value, end = b'{"all": [', b"1234567,", b"1234567]}"
    assert columns_of(inspect(context, start + value * 2_200_000 + end, "t.json").table) == [("all", "BIGINT[]", 0)]
    failed = failure_of(context, start + value * 17_000_000 + end, "t.json")
    assert failed.type == "/problems/unreadable-table"
    assert "has more than 128 MiB" in str(failed.detail)


def test_a_type_that_changes_far_down_the_file_is_no_error(context: MemoryContext) -> None:
    content = b"".join(b'{"a": %d}\n' % number for number in range(30_000)) + b'{"a": "late"}\n'
    table = inspect(context, content, "t.json").table
    assert table is not None
    assert table.rows == 30_001


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (b'[{"a": 1},\n{"a": 2},\n', "t.json"),
        (b'[{"a": 1},\n{"a": 2},\n{"a":', "t.json"),
        (b'a,b\n1,"never closed\n', "t.csv"),
    ],
)
def test_a_truncated_table_is_never_read_as_a_smaller_one(context: MemoryContext, content: bytes, name: str) -> None:
    with pytest.raises(Failed, match="/problems/unreadable-table"):
        inspect(context, content, name)


def test_damaged_tables_are_unreadable_and_nothing_of_them_is_quoted(context: MemoryContext, tmp_path: Path) -> None:
    for number, (content, name) in enumerate(
        [
            (b"PAR1" + bytes(500) + b"PAR1", "t.parquet"),
            (b'[{"secret": 1}, {"secret": ' + b"[" * 70_000, "t.json"),
            (b"a,b\n" + b'"secret' * 3000, "t.csv"),
            (b"a,b\n1,\x00\x00\n", "t.csv"),
        ]
    ):
        fresh = MemoryContext(tmp_path / str(number))
        try:
            result = inspect(fresh, content, name)
        except Failed as failed:
            assert failed.type == "/problems/unreadable-table"
            assert "secret" not in str(failed.detail)
            assert str(tmp_path) not in str(failed.detail)
        else:
            assert result.media_type in {"text/csv", "application/octet-stream"}


def test_a_table_cannot_reach_another_file(context: MemoryContext) -> None:
    content = b"a,b\n'/etc/passwd',read_csv('/etc/passwd')\n"
    assert columns_of(inspect(context, content, "t.csv").table) == [("a", "VARCHAR", 0), ("b", "VARCHAR", 0)]


def test_a_large_table_needs_no_more_than_a_task_may_use(context: MemoryContext) -> None:
    context.memory_bytes = 1600 << 20
    content = b"".join(b"%d,some words that repeat,%d.5,2026-01-02\n" % (n, n) for n in range(400_000))
    table = inspect(context, b"id,words,value,day\n" + content).table
    assert table is not None
    assert table.rows == 400_000


@pytest.mark.parametrize(
    ("content", "encoding", "lines"),
    [
        (b"one\ntwo\n", "utf-8", 2),
        (b"one\r\ntwo\rthree", "utf-8", 3),
        (b"\n", "utf-8", 1),
        ("Grüße\n".encode(), "utf-8", 1),
        ("\ufeffGrüße".encode(), "utf-8", 1),
        ("Grüße\nund mehr\n".encode("utf-16"), "utf-16", 2),
        ("Grüße\nund mehr\n".encode("utf-32"), "utf-32", 2),
        ("Über die Brücke fährt der müde Bär, größer als schön.\n".encode("cp1252") * 5, "windows-1252", 5),
        ("Съешь же ещё этих мягких французских булок, да выпей чаю.\n".encode("cp1251") * 9, "windows-1251", 9),
        (b"<!doctype html>\n<p>x</p>\n", "utf-8", 2),
    ],
)
def test_the_encoding_and_lines_of_a_text_are_returned(
    context: MemoryContext, content: bytes, encoding: str, lines: int
) -> None:
    result = inspect(context, content, "notes.txt")
    assert result.text is not None
    assert result.text.lines == lines
    assert result.text.encoding == encoding


def test_a_line_end_that_is_read_in_two_pieces_counts_once(context: MemoryContext) -> None:
    content = b"x" * ((1 << 20) - 1) + b"\r\n" + b"y"
    result = inspect(context, content, "notes.txt")
    assert result.text is not None
    assert result.text.lines == 2


def test_an_unknown_file_has_only_a_size_and_a_checksum(context: MemoryContext) -> None:
    for content in (b"", bytes(1000), b"PK\x03\x04" + bytes(100)):
        result = inspect(context, content)
        assert result.size == len(content)
        assert (result.image, result.pdf, result.table, result.text) == (None, None, None, None)


def test_an_attempt_without_time_left_is_stopped(tmp_path: Path, read_data: ReadData) -> None:
    context = MemoryContext(tmp_path, timeout_seconds=0.0)
    with pytest.raises(TimedOut):
        inspect(context, read_data("rocket.jpg"))


def test_a_missing_input_is_a_named_error(context: MemoryContext) -> None:
    with pytest.raises(Failed, match="/problems/input-gone"):
        handle(InspectParams.model_validate({"file_id": "01234567-89ab-7def-8123-456789abcdef"}), context)


def test_unknown_params_are_refused() -> None:
    with pytest.raises(ValidationError):
        InspectParams.model_validate({"file_id": "01234567-89ab-7def-8123-456789abcdef", "gps": True})
