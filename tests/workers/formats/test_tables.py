"""Tables of callers, as both `files.inspect` and `reports.run` read them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypedDict, Unpack

import duckdb
import pytest

from workers.formats import table_readers, tables
from workers.formats.tables import Table, explain_table_error, find_relation, prepare_table
from workers.outcomes import Failed

MediaType = str
CSV = "text/csv"
JSON = "application/json"


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


class Options(TypedDict, total=False):
    """The options of `prepare_table`."""

    header: bool
    encoding: str | None
    source: str | None


def prepare(content: bytes, media_type: MediaType, **options: Unpack[Options]) -> Table:
    Path("upload").write_bytes(content)
    return prepare_table(Path("upload"), Path("table"), media_type, **options)


def read(content: bytes, media_type: MediaType = CSV, **options: Unpack[Options]) -> list[tuple[Any, ...]]:
    """Return the names of the columns, and then the rows. Raises `Failed` as the kinds do."""
    table = prepare(content, media_type, **options)
    connection = duckdb.connect()
    try:
        relation = connection.execute(f"FROM {find_relation(connection, table)}")
        return [tuple(column[0] for column in relation.description or ()), *relation.fetchall()]
    except duckdb.Error as error:
        raise explain_table_error(error, table) from error


def reason_of(content: bytes, media_type: MediaType = CSV, **options: Unpack[Options]) -> str:
    """Return why a file is no table."""
    with pytest.raises(Failed) as caught:
        read(content, media_type, **options)
    assert caught.value.type == "/problems/unreadable-table"
    assert caught.value.detail is not None
    return caught.value.detail.removeprefix("The file cannot be read as a table: ")


@pytest.mark.parametrize(
    ("content", "names"),
    [
        (b"country,2020,2021\nDE,10,20\nFR,30,40\n", ("country", "2020", "2021")),
        (b"2020;2021\n1;2\n3;4\n", ("2020", "2021")),
        (b"I like it (1-5),true,2024-01-01\n1,2,3\n4,5,1\n", ("I like it (1-5)", "true", "2024-01-01")),
        (b"Ann,Bonn\nBob,Rome\nEve,Oslo\n", ("Ann", "Bonn")),
    ],
)
def test_the_first_line_is_the_header_whatever_it_looks_like(content: bytes, names: tuple[str, ...]) -> None:
    rows = read(content)

    assert rows[0] == names
    assert len(rows) == content.count(b"\n")


def test_a_file_without_a_header_keeps_its_first_row() -> None:
    assert read(b"Ann,1\nBob,2\n", header=False) == [("column0", "column1"), ("Ann", 1), ("Bob", 2)]
    assert read(b"sep=;\n1;2\n3;4\n", header=False) == [("column0", "column1"), (1, 2), (3, 4)]


@pytest.mark.parametrize(
    "content",
    [
        b"sep=;\r\na;b\r\n1,5;2\r\n",
        b'"sep=;"\na;b\n1,5;2\n',
        b"SEP=;\n\na;b\n1,5;2",
        "sep=;\r\na;b\r\n1,5;2\r\n".encode("utf-8-sig"),
        "sep=;\r\na;b\r\n1,5;2\r\n".encode("utf-16"),
        b"\n\r\n\na;b\n1,5;2\n",
        b"\r\n\r\na;b\r\n1,5;2\r\n",
        b"a;b\r1,5;2\r",
        b"a;b\n1,5;2\n\n\n",
    ],
)
def test_lines_before_and_behind_the_table_are_no_rows(content: bytes) -> None:
    assert read(content) == [("a", "b"), ("1,5", 2)]


@pytest.mark.parametrize(
    "content",
    [
        b"a,b\r\n1,2\n3,4\r\n",
        b"a,b\n1,2\r\n3,4\r",
        b"a,b\r1,2\r\n3,4\n",
        b"\r\na,b\n1,2\r\n3,4\n",
        b"sep=,\r\na,b\n1,2\r\n3,4\n",
    ],
)
def test_lines_may_end_in_different_ways(content: bytes) -> None:
    assert read(content) == [("a", "b"), (1, 2), (3, 4)]


@pytest.mark.parametrize("line_end", [b"\r\n", b"\n"])
def test_a_line_end_in_a_quoted_cell_stays_what_it_is(line_end: bytes) -> None:
    lines = [b"a,b", b'1,"x\ny"', b'2,"v\r\nw"', b'3,"t\ru"', b""]

    assert read(line_end.join(lines)) == [("a", "b"), (1, "x\ny"), (2, "v\r\nw"), (3, "t\ru")]


def test_commas_and_names_within_json_texts_are_no_faults() -> None:
    assert read(b'[{"a": "x,] y,} : NaN, inf,"}]', JSON) == [("a",), ("x,] y,} : NaN, inf,",)]


def test_a_return_in_a_quoted_cell_of_a_single_column_begins_no_row() -> None:
    assert read(b'note\n"first\rsecond"\nthird\n') == [("note",), ("first\rsecond",), ("third",)]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"Estratto del 2025-01-06\nid;nome\n1;Rossi\n2;Bianchi\n", "line 2 has 2 cells, and the first has 1."),
        (b"Report, 2024\nname,value,x\na,1,2\nb,2,3\n", "line 2 has 3 cells, and the first has 2."),
        (b"Sales\nOf 2024\n\nname,value\na,1\nb,2\n", "line 4 has 2 cells, and the first has 1."),
        (b"a,b,c\n1,2,3\n4,5\n6,7,8,9\n", "line 3 has 2 cells, and the first has 3."),
        (b'a,b\n1,"two\nlines"\n3\n', "line 4 has 1 cell, and the first has 2."),
        (b"a,b\n1,2\n# made by hand\n", "line 3 has 1 cell, and the first has 2."),
        (b"a,b\n" + b"1,2\n" * 3_000 + b"3,4,5\n", "line 3002 has 3 cells, and the first has 2."),
        (b"\n\na,b\n1,2\n3\n", "line 5 has 1 cell, and the first has 2."),
        (b'a,b\n1,2\n3,"never closed\n5,6\n', "line 3 is not CSV: a quoted cell that begins there has no end."),
        (
            b'a,b\n1,2\n"x"y,4\n',
            "line 3 is not CSV: a quoted cell is followed by text in place of a separator.",
        ),
        (b"a,b\n1,\x00\n", "it is neither text nor Parquet."),
        (b"PAR1 and no more", "it is damaged or cut short, or its Parquet uses a feature that is not supported."),
    ],
)
def test_a_file_that_does_not_fit_is_refused_with_its_line(content: bytes, reason: str) -> None:
    assert reason_of(content) == reason


@pytest.mark.parametrize(
    ("content", "rows"),
    [
        (b"words\none\ntwo\n", 2),
        (b'"first, last"\n"a, b"\n', 1),
        (b"name\nSmith\nDoe, Jane\nRoe\nMoe\n", 4),
        (b"preis\n1,5\n2,7\n", 2),
        (b'disk\n5" disk\n6" disk\n', 2),
    ],
)
def test_a_single_column_is_a_table(content: bytes, rows: int) -> None:
    table = read(content)

    assert len(table[0]) == 1
    assert len(table) == rows + 1


def test_a_cell_of_more_than_two_megabytes_is_read() -> None:
    rows = read(b"a,b\n1," + b"x" * 2_500_000 + b"\n2,y\n")

    assert [(number, len(text)) for number, text in rows[1:]] == [(1, 2_500_000), (2, 1)]


def test_a_row_that_is_too_long_is_refused_with_its_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table_readers, "MAX_CSV_LINE_BYTES", 2_400_000)

    assert reason_of(b"a,b\n2,y\n1," + b"x" * 2_500_000 + b"\n") == "line 3 has more than 2,400,000 bytes."


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b'[{"id": 1}, {"id": undefined}]', "it is not valid JSON: line 1, column 20."),
        (b"[{'id': 1}, {'id': None}]", "it is not valid JSON: line 1, column 3."),
        (b'// made by hand\n[{"id": 1}]', "it is not valid JSON: line 1, column 1."),
        (b'[{"id": 1},\n {"id": 2}, // the last\n]', "it is not valid JSON: line 2, column 13."),
        (b'{"id": 1}\n{"id": 2\n{"id": 3}\n', "it is not valid JSON: line 2, column 9."),
        (b'{"id": 1}\nnone\n{"id": 3}\n', "it is not valid JSON: line 2, column 1."),
        (b'{"id": bad}\n{"id": 2}\n', "it is not valid JSON: line 1, column 8."),
        (b'\n\n{"id": 1}\n\n{"id": }\n', "it is not valid JSON: line 5, column 8."),
        (b'{"id": 1}\r\n{"id": }\r\n', "it is not valid JSON: line 2, column 8."),
        (b'{\n "a": 1,\n "b": undefined\n}\n', "it is not valid JSON: line 3, column 7."),
        (b'[{"a": 1,}]', "it is not valid JSON: line 1, column 10."),
        (b'{"a": 1}\n{"a": 2,}\n', "it is not valid JSON: line 2, column 9."),
        (b'[{"a": [1, 2,]}]', "it is not valid JSON: line 1, column 14."),
        (b'[{"b": "NaN", "a": NaN}]', "it is not valid JSON: line 1, column 20."),
        (b'{"a": 1}\n{"a": -Infinity}\n', "it is not valid JSON: line 2, column 7."),
        (b'[{"a": nan}]', "it is not valid JSON: line 1, column 8."),
        (b'[{"a": 1}] and more', "it is not valid JSON: line 1, column 12."),
        (b'{"a": "x\ny"}', "it is not valid JSON: line 1, column 9."),
        (b'[{"a": 1},\n{"a": 2},\n', "its JSON array has no end."),
        (b'[{"a": 1},\n{"a":', "its JSON array has no end."),
        (b'[{"a": 1},\n{"a": "x', "its JSON array has no end."),
        (b'{"a": 1}\n{"a":\n', "it is not valid JSON: line 2, column 6."),
        (b'[{"a": 1}, {"k": "Roe", "a": 2, "k": "Doe"}]', 'record 2 has the key "k" twice.'),
        (b'{"a": 1}\n{"in": {"k": "Roe", "k": 1}}\n', 'record 2 has the key "k" twice.'),
        (b'{"a": "\\ud800"}', "record 1 has one half of a surrogate pair, which is no character."),
    ],
)
def test_broken_json_is_refused_with_its_line(content: bytes, reason: str) -> None:
    assert reason_of(content, JSON) == reason


def test_a_fault_behind_millions_of_characters_is_found_at_its_line() -> None:
    rows = b'{"id": 1, "text": "abc"},\n' * 60_000

    assert reason_of(b"[" + rows + b'{"id": tru}]', JSON) == "it is not valid JSON: line 60001, column 8."
    assert (
        reason_of(b'[{"a": "' + b"x" * 3_000_000 + b'"},\n{"a": }]', JSON) == "it is not valid JSON: line 2, column 7."
    )


@pytest.mark.parametrize("media_type", [CSV, "text/plain"])
@pytest.mark.parametrize("content", [b'[{"id": 1, "paid": undefined}]', b"[{'a': 1}]", b"{a: 1, b: 2}\n{a: 3, b: 4}\n"])
def test_text_that_begins_as_json_never_becomes_csv(content: bytes, media_type: MediaType) -> None:
    assert "not valid JSON" in reason_of(content, media_type)


def test_mixed_values_of_json_are_compared_as_what_they_are() -> None:
    table = prepare(
        b'[{"id":1,"vals":[1,"a",null,2.5],"o":{"v":1},"m":10},{"id":2,"vals":["b"],"o":{"v":"x"},"m":"n/a"}]', JSON
    )
    connection = duckdb.connect()
    connection.execute(f"CREATE VIEW t AS FROM {find_relation(connection, table)}")

    assert connection.execute("FROM t").fetchall() == [
        (1, [1, "a", None, 2.5], {"v": 1}, 10),
        (2, ["b"], {"v": "x"}, "n/a"),
    ]
    for condition, id_ in [("m = 'n/a'", 2), ("m = 10", 1), ("o.v = 'x'", 2), ("o.v = 1", 1), ("vals[1] = 'b'", 2)]:
        assert connection.execute(f"SELECT id FROM t WHERE {condition}").fetchall() == [(id_,)]


@pytest.mark.parametrize(
    ("content", "encoding", "name", "replaced_bytes"),
    [
        ("имя,город\nИван,Москва\nОльга,Казань\n".encode("cp1251"), None, "windows-1251", 0),
        ("имя,город\nИван,Москва\nОльга,Казань\n".encode("koi8-r"), None, "koi8-r", 0),
        ("имя,город\nИ,М\n".encode("cp1251"), "windows-1251", "windows-1251", 0),
        ("id,imię\n1,Łukasz\n2,Małgorzata\n3,Świętosław\n".encode("cp1250"), None, "windows-1250", 0),
        ("名前,都市\n太郎,東京\n花子,大阪\n".encode("shift_jis"), None, "shift_jis", 0),
        ("名前\nア\n".encode("shift_jis"), "sjis", "shift_jis", 0),
        ("name,stadt\nZoë,Köln\n".encode("latin-1"), None, "windows-1252", 0),
        ("name,stadt\nZoë,Köln\n".encode("utf-16"), None, "utf-16", 0),
        ("a,b\nGrüße,1\n".encode() * 30 + b"Gr\xe9,1\n", None, "utf-8", 1),
    ],
)
def test_the_encoding_is_found_or_taken_and_reported(
    content: bytes, encoding: str | None, name: str, replaced_bytes: int
) -> None:
    table = prepare(content, CSV, encoding=encoding)

    assert table.encoding is not None
    assert (table.encoding.iana_name, table.encoding.replaced_bytes) == (name, replaced_bytes)
    assert "\ufffd" not in read(content, encoding=encoding)[0]


def test_a_wrong_encoding_is_a_clear_error() -> None:
    assert reason_of("ä,ö\n1,2\n".encode("latin-1"), encoding="utf-8") == (
        "it is not encoded in utf-8, in which some of its bytes are not valid."
    )


def test_a_report_names_its_source() -> None:
    with pytest.raises(Failed, match='The source "sales" cannot be read as a table: line 2') as caught:
        read(b"a,b\n1\n", source="sales")

    assert caught.value.data == {"source": "sales"}


def test_a_long_cell_behind_the_sampled_rows_of_a_large_file_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "WHOLE_SAMPLE_BYTES", 1 << 20)
    monkeypatch.setattr(tables, "TYPE_SAMPLE_ROWS", 100)

    _, *rows = read(b"a,b\n" + b"1,x\n" * 30_000 + b"2," + b"y" * 3_000_000 + b"\n")

    assert (len(rows), len(rows[-1][1])) == (30_001, 3_000_000)
