from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import duckdb
import pytest

from workers.formats.csv_form import find_csv_form
from workers.formats.table_readers import find_csv_reader, find_json_reader


def read_csv(folder: Path, content: str, *, header: bool = True, sample: int = -1) -> list[tuple[str, str, list[Any]]]:
    """Return name, type and values of each column."""
    path = folder / "table.csv"
    path.write_text(content)
    connection = duckdb.connect()
    return columns_of(connection, find_csv_reader(connection, path, find_csv_form(path), header=header, sample=sample))


def read_json(folder: Path, *rows: object) -> list[tuple[str, str, list[Any]]]:
    """Return name, type and values of each column."""
    path = folder / "table.json"
    path.write_text("\n".join(map(json.dumps, rows)))
    connection = duckdb.connect()
    return columns_of(connection, find_json_reader(connection, path, sample=-1))


def columns_of(connection: duckdb.DuckDBPyConnection, reader: str) -> list[tuple[str, str, list[Any]]]:
    described = connection.execute(f"DESCRIBE FROM {reader}").fetchall()
    # A cast to VARCHAR in the query would be done by the reader, and so give what stands in the file.
    rows = connection.execute(f"FROM {reader}").fetchall()
    return [
        (name, column_type, [None if row[position] is None else str(row[position]) for row in rows])
        for position, (name, column_type, *_) in enumerate(described)
    ]


@pytest.mark.parametrize(
    "values",
    [
        ("31.12.24", "15.11.24"),
        ("31/12/24", "15/11/24"),
        ("31-12-24", "15-11-24"),
        ("24-12-31", "24-11-15"),
        ("31.12.24 10:00:00", "15.11.24 11:00:00"),
        ("1/2/2024", "3/4/2024"),
        ("1/2/2024", "3/14/2024"),
        ("31.12.2024", "15.11.2024"),
        ("1/2/2024 10:00:00 AM", "3/4/2024 11:00:00 PM"),
        ("2020-01-02", "01/02/2020"),
        ("2024-01-02", "2024/01/03"),
    ],
)
def test_dates_that_do_not_begin_with_a_whole_year_stay_text(tmp_path: Path, values: tuple[str, str]) -> None:
    first, second = values
    assert read_csv(tmp_path, f"day,n\n{first},1\n{second},2\n") == [
        ("day", "VARCHAR", [first, second]),
        ("n", "BIGINT", ["1", "2"]),
    ]


@pytest.mark.parametrize(
    ("value", "column_type", "read"),
    [
        ("2024-01-02", "DATE", "2024-01-02"),
        ("2024/1/2", "DATE", "2024-01-02"),
        ("2024.01.02", "DATE", "2024-01-02"),
        ("2024-01-02 10:00:00", "TIMESTAMP", "2024-01-02 10:00:00"),
        ("2024/01/02 10:00:00", "TIMESTAMP", "2024-01-02 10:00:00"),
        ("2024-01-02T10:00:00.5Z", "TIMESTAMP WITH TIME ZONE", "2024-01-02 10:00:00.500000+00:00"),
        ("10:00:00", "TIME", "10:00:00"),
    ],
)
def test_dates_with_their_year_first_are_dates(tmp_path: Path, value: str, column_type: str, read: str) -> None:
    assert read_csv(tmp_path, f"d,n\n{value},1\n,2\n") == [
        ("d", column_type, [read, None]),
        ("n", "BIGINT", ["1", "2"]),
    ]


@pytest.mark.parametrize("odd", ["1/2/24", "31.12.24", "1/2/2024", "1/2/24 10:00"])
@pytest.mark.parametrize("turned", [False, True])
def test_a_column_of_ambiguous_dates_leaves_the_others_dates(tmp_path: Path, odd: str, turned: bool) -> None:
    columns = [["odd", odd, odd], ["day", "2024-01-02", "2024-01-03"], ["at", "2024-01-02 10:00", "2024-01-02 11:00"]]
    if turned:
        columns.reverse()
    content = "\n".join(",".join(row) for row in zip(*columns, strict=True))

    found = {name: (column_type, values) for name, column_type, values in read_csv(tmp_path, content)}

    assert found == {
        "odd": ("VARCHAR", [odd, odd]),
        "day": ("DATE", ["2024-01-02", "2024-01-03"]),
        "at": ("TIMESTAMP", ["2024-01-02 10:00:00", "2024-01-02 11:00:00"]),
    }


def test_a_file_without_a_header_loses_no_row_when_its_dates_are_text(tmp_path: Path) -> None:
    assert read_csv(tmp_path, "31.12.24,x\n15.11.24,y\n", header=False) == [
        ("column0", "VARCHAR", ["31.12.24", "15.11.24"]),
        ("column1", "VARCHAR", ["x", "y"]),
    ]


def test_columns_of_any_name_can_stay_text(tmp_path: Path) -> None:
    content = 'it\'s;"a ""b""";"";day;day\n31.12.24;31.12.24;31.12.24;31.12.24;2024-01-02\n'

    assert [column_type for _, column_type, _ in read_csv(tmp_path, content)] == ["VARCHAR"] * 4 + ["DATE"]


def test_an_ambiguous_date_beyond_the_sample_makes_its_column_text(tmp_path: Path) -> None:
    content = "n,day\n" + "1,2024-01-02\n" * 30_000 + "1,1/2/24\n"

    _, (name, column_type, values) = read_csv(tmp_path, content, sample=100)

    assert (name, column_type, values[-1]) == ("day", "VARCHAR", "1/2/24")


@pytest.mark.parametrize("value", ["31-12-24", "24-12-31", "1-2-2024", "01-02-24 10:00:00", "infinity"])
def test_ambiguous_dates_of_json_stay_text(tmp_path: Path, value: str) -> None:
    rows = [{"day": value, "n": 1}, {"n": 2}]
    if value == "infinity":
        rows[1]["day"] = "2024-01-02"

    assert read_json(tmp_path, *rows)[0] == ("day", "VARCHAR", [value, rows[1].get("day")])
    assert read_json(tmp_path, *({"in": [row]} for row in rows))[0][1] == 'STRUCT("day" VARCHAR, n BIGINT)[]'


def test_dates_of_json_with_their_year_first_are_dates(tmp_path: Path) -> None:
    rows = [{"day": "2024-01-02", "at": "2024-01-02T10:00:00Z", "in": {"day": "2024-01-02"}}, {"in": None}]

    assert [column_type for _, column_type, _ in read_json(tmp_path, *rows)] == [
        "DATE",
        "TIMESTAMP WITH TIME ZONE",
        'STRUCT("day" DATE)',
    ]


def test_every_key_of_json_is_a_column_however_many_there_are(tmp_path: Path) -> None:
    many = read_json(tmp_path, {f"k{number}": number for number in range(300)}, {"k0": 1})
    sparse = read_json(tmp_path, *({f"k{number}": number} for number in range(150)))

    assert [name for name, _, _ in many] == [f"k{number}" for number in range(300)]
    assert [name for name, _, _ in sparse] == [f"k{number}" for number in range(150)]


@pytest.mark.parametrize(
    ("text", "column_type"),
    [
        ("2024-01-01 00:00:00.123456789", "VARCHAR"),
        ("2024-01-01T00:00:00.1234567Z", "VARCHAR"),
        ("10:00:00.1234567", "VARCHAR"),
        ("2024-01-01 00:00:00.1234560", "TIMESTAMP"),
        ("10:00:00.123456", "TIME"),
    ],
)
def test_times_finer_than_microseconds_stay_text(tmp_path: Path, text: str, column_type: str) -> None:
    (_, in_csv, values) = read_csv(tmp_path, f"a\n{text}\n")[0]
    (_, in_json, json_values) = read_json(tmp_path, {"a": text})[0]

    assert in_csv == column_type
    assert (in_json == "VARCHAR") or column_type != "VARCHAR"
    if column_type == "VARCHAR":
        assert values == json_values == [text]


def test_a_fine_time_in_one_column_leaves_the_dates_of_others(tmp_path: Path) -> None:
    columns = read_csv(tmp_path, "at,day\n2024-01-01 00:00:00.1234567,2024/02/03\n")

    assert columns == [("at", "VARCHAR", ["2024-01-01 00:00:00.1234567"]), ("day", "DATE", ["2024-02-03"])]


@pytest.mark.parametrize("text", ["epoch", "infinity", "-infinity"])
def test_names_of_moments_in_json_stay_text_even_alone(tmp_path: Path, text: str) -> None:
    assert read_json(tmp_path, {"a": text, "b": 1}, {"a": None, "b": 2}) == [
        ("a", "VARCHAR", [text, None]),
        ("b", "BIGINT", ["1", "2"]),
    ]
