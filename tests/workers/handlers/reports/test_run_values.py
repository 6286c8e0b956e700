"""How values of DuckDB's types are written in each format, without a child process."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import duckdb
import openpyxl
import pytest

from workers.handlers.reports._csv_writer import CsvWriter
from workers.handlers.reports._json_writer import JsonWriter
from workers.handlers.reports._values import describe_result, find_converters, name_columns, shortest_double
from workers.handlers.reports._xlsx_writer import XlsxWriter


@dataclass(frozen=True)
class Written:
    """One value, in each format."""

    csv: str
    json: object
    xlsx: object


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def write(expression: str) -> Written:
    """Write the value of an expression of SQL in each format."""
    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'")
    connection.execute(f"SELECT {expression} AS v")
    described = describe_result(connection)
    columns = name_columns(described)
    rows: Sequence[Sequence[object]] = connection.fetchall()
    for converter in find_converters(described):
        rows = converter.convert_batch(rows)
    in_csv, in_json, in_xlsx = io.BytesIO(), io.BytesIO(), io.BytesIO()
    for writer in (
        CsvWriter(in_csv, columns, None, 1 << 20),
        JsonWriter(in_json, columns, None, 1 << 20),
        XlsxWriter(in_xlsx, columns, None, 1 << 20),
    ):
        writer.write(rows)
        writer.finish()
    return Written(
        csv=list(csv.reader(io.StringIO(in_csv.getvalue().decode(), newline="")))[1][0],
        json=json.loads(in_json.getvalue())[0]["v"],
        xlsx=openpyxl.load_workbook(in_xlsx).active["A2"].value,
    )


@pytest.mark.parametrize(
    ("expression", "text"),
    [
        ("0.1::FLOAT", "0.1"),
        ("132.04::FLOAT", "132.04"),
        ("19.99::FLOAT", "19.99"),
        ("(-0.3)::FLOAT", "-0.3"),
        ("16777217::FLOAT", "16777216.0"),
        ("123456.79::FLOAT", "123456.79"),
        ("1e10::FLOAT", "10000000000.0"),
        ("1e-45::FLOAT", "1e-45"),
        ("3.4028235e38::FLOAT", "3.4028235e+38"),
    ],
)
def test_a_float_is_the_shortest_text_that_reads_back(expression: str, text: str) -> None:
    written = write(expression)

    assert (written.csv, written.json) == (text, float(text))
    assert written.xlsx == pytest.approx(float(text), rel=1e-15)


@pytest.mark.parametrize(
    ("expression", "nested"),
    [
        ("[0.1::FLOAT, NULL]", [0.1, None]),
        ("[0.1::FLOAT, 132.04::FLOAT]::FLOAT[2]", [0.1, 132.04]),
        ("{'a': 0.1::FLOAT, 'b': 'x', 'c': [{'d': 132.04::FLOAT}]}", {"a": 0.1, "b": "x", "c": [{"d": 132.04}]}),
        ("MAP {'a': 0.1::FLOAT}", {"a": 0.1}),
        ("MAP {0.1::FLOAT: 'a'}", {"0.1": "a"}),
        ("MAP {[0.1::FLOAT]: 'a'}", {"key": [[0.1]], "value": ["a"]}),
    ],
)
def test_a_nested_float_is_the_shortest_text_too(expression: str, nested: object) -> None:
    written = write(expression)

    assert written.json == nested
    assert json.loads(written.csv) == nested
    assert json.loads(str(written.xlsx)) == nested


def test_every_float_reads_back_as_itself() -> None:
    import random
    import struct

    generator = random.Random(1)
    for _ in range(5_000):
        (value,) = struct.unpack("f", generator.randbytes(4))
        if value == value and abs(value) != float("inf"):
            assert struct.pack("f", shortest_double(value)) == struct.pack("f", value)


@pytest.mark.parametrize(
    ("expression", "value", "cell"),
    [
        ("""'"n/a"'::JSON""", "n/a", "n/a"),
        ("'10'::JSON", 10, "10"),
        ("'true'::JSON", True, "true"),
        ("""'{"a": [1, "b", null]}'::JSON""", {"a": [1, "b", None]}, '{"a":[1,"b",null]}'),
        ("""['"a"'::JSON, '1'::JSON, NULL]""", ["a", 1, None], '["a",1,null]'),
        ("""{'v': '"x"'::JSON}""", {"v": "x"}, '{"v":"x"}'),
        ("""MAP {'k': '[1]'::JSON}""", {"k": [1]}, '{"k":[1]}'),
        ("""'"n/a"'::JSON::VARIANT""", "n/a", "n/a"),
        ("""['"a"'::JSON::VARIANT, '2.5'::JSON::VARIANT]""", ["a", 2.5], '["a",2.5]'),
        ("""'"=1+1"'::JSON""", "=1+1", "'=1+1"),
    ],
)
def test_json_is_the_value_that_it_says_at_any_depth(expression: str, value: object, cell: str) -> None:
    written = write(expression)

    assert written.json == value
    assert written.csv == cell


@pytest.mark.parametrize(
    ("expression", "in_json", "in_csv"),
    [
        ("DATE '12000-01-31'", "12000-01-31", "12000-01-31"),
        ("DATE '0044-03-15 (BC)'", "-0043-03-15", "-0043-03-15"),
        ("DATE '0001-03-15 (BC)'", "0000-03-15", "0000-03-15"),
        ("TIMESTAMP '12000-01-31 10:00:00.5'", "12000-01-31T10:00:00.500000", "12000-01-31 10:00:00.500000"),
        ("TIMESTAMP_S '12000-01-31 10:00:00'", "12000-01-31T10:00:00", "12000-01-31 10:00:00"),
        ("TIMESTAMPTZ '12000-01-31 10:00:00+00'", "12000-01-31T10:00:00Z", "12000-01-31 10:00:00Z"),
        ("TIMESTAMPTZ '0044-03-15 (BC) 10:00:00+00'", "-0043-03-15T10:00:00Z", "-0043-03-15 10:00:00Z"),
        ("[DATE '12000-01-31']", ["12000-01-31"], '["12000-01-31"]'),
        ("{'at': TIMESTAMP '12000-01-31 10:00:00'}", {"at": "12000-01-31T10:00:00"}, '{"at":"12000-01-31T10:00:00"}'),
        ("TIME '24:00:00'", "24:00:00", "24:00:00"),
    ],
)
def test_years_that_python_does_not_know_are_written_as_iso_8601(expression: str, in_json: object, in_csv: str) -> None:
    written = write(expression)

    assert written.json == in_json
    assert written.csv == in_csv
    assert written.xlsx == (in_json if isinstance(in_json, str) else in_csv)


@pytest.mark.parametrize("code", [*range(1, 32), 0x7F, 0x85, 0x2028, 0xFFFD])
def test_control_characters_stay_in_every_format(code: int) -> None:
    text = f"a{chr(code)}b"

    written = write(f"'a' || chr({code}) || 'b'")

    assert (written.csv, written.json) == (text, text)
    escaped = f"a_x{code:04X}_b" if code < 32 and chr(code) not in "\t\n" else text
    assert written.xlsx == escaped
