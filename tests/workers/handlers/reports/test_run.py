"""Reports, from params to artifacts, in a real child process."""

from __future__ import annotations

import csv
import io
import json
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path
from typing import Any, Protocol

import duckdb
import openpyxl
import psutil
import pytest

from shared.contracts.reports.run import RunParams, RunResult
from shared.limits import HeldLimits, Limits
from tests.conftest import PATIENCE_SECONDS
from workers.adapters.memory_context import MemoryContext
from workers.handlers.reports import run
from workers.handlers.reports._limits import ReportLimits
from workers.handlers.reports.run import handle
from workers.outcomes import Cancelled, Failed

DATA = Path(__file__).parents[3] / "data"
PENGUINS = (DATA / "penguins.csv").read_bytes()
WEATHER = (DATA / "seattle-weather.csv").read_bytes()


class Report:
    """A finished report, with methods that read its artifacts."""

    def __init__(self, result: RunResult, context: MemoryContext) -> None:
        self.result = result
        self.context = context
        self.contents = {artifact.name: artifact.content for artifact in context.artifacts}

    @property
    def csv_rows(self) -> list[list[str]]:
        return list(csv.reader(io.StringIO(self.contents["report.csv"].decode(), newline="")))

    @property
    def json_rows(self) -> list[dict[str, Any]]:
        return json.loads(self.contents["report.json"])

    @property
    def workbook(self) -> openpyxl.Workbook:
        return openpyxl.load_workbook(io.BytesIO(self.contents["report.xlsx"]))

    @property
    def xlsx_cells(self) -> list[list[Any]]:
        return [list(row) for row in self.workbook.active.iter_rows()]

    @property
    def xlsx_rows(self) -> list[list[Any]]:
        return [[cell.value for cell in row] for row in self.xlsx_cells]


class RunReport(Protocol):
    """Runs a report over files by their names in the query: CSV, or content and media type; penguins if none is given."""

    def __call__(
        self,
        query: str,
        *,
        formats: Sequence[str] = ("csv",),
        title: str | None = None,
        stop_after_seconds: float | None = None,
        **files: bytes | tuple[bytes, str],
    ) -> Report: ...


LimitedChildren = Callable[[], list[psutil.Process]]
Cell = openpyxl.cell.cell.Cell


@pytest.fixture
def run_report(tmp_path: Path) -> RunReport:
    def run(
        query: str,
        *,
        formats: Sequence[str] = ("csv",),
        title: str | None = None,
        stop_after_seconds: float | None = None,
        **files: bytes | tuple[bytes, str],
    ) -> Report:
        folder = tmp_path / f"attempt-{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        context = MemoryContext(folder, timeout_seconds=60.0)
        sources = []
        for name, file in (files or {"penguins": PENGUINS}).items():
            content, media_type = file if isinstance(file, tuple) else (file, "text/csv")
            sources.append({"name": name, "file_id": context.add_input(content, name, media_type)})
        params = RunParams.model_validate({"title": title, "sources": sources, "query": query, "formats": formats})
        if stop_after_seconds is not None:
            threading.Timer(stop_after_seconds, setattr, (context, "stop_with", Cancelled())).start()
        return Report(handle(params, context), context)

    return run


def parquet_of(tmp_path: Path, query: str) -> bytes:
    path = tmp_path / "made.parquet"
    duckdb.connect().execute(f"COPY ({query}) TO '{path}' (FORMAT parquet)")
    return path.read_bytes()


def mean_body_masses() -> dict[tuple[str, str], float]:
    """Return the expected result, computed without DuckDB."""
    masses = defaultdict(list)
    for row in csv.DictReader(io.StringIO(PENGUINS.decode())):
        if row["body_mass_g"] not in ("", "NA"):
            masses[row["species"], row["island"]].append(int(row["body_mass_g"]))
    return {group: sum(values) / len(values) for group, values in sorted(masses.items())}


MEAN_BODY_MASS = """
SELECT species, island, avg(body_mass_g) AS mean_body_mass_g
FROM penguins GROUP BY species, island ORDER BY species, island
"""


def test_every_format_has_the_right_mean_body_mass_of_penguins(run_report: RunReport) -> None:
    report = run_report(MEAN_BODY_MASS, formats=["csv", "xlsx", "json"], title="Penguins", penguins=PENGUINS)

    expected = mean_body_masses()
    assert len(expected) == 5
    assert report.result.rows == 5
    assert [(column.name, column.type) for column in report.result.columns] == [
        ("species", "VARCHAR"),
        ("island", "VARCHAR"),
        ("mean_body_mass_g", "DOUBLE"),
    ]
    assert {(row[0], row[1]): float(row[2]) for row in report.csv_rows[1:]} == pytest.approx(expected)
    assert {(row[0], row[1]): row[2] for row in report.xlsx_rows[1:]} == pytest.approx(expected)
    assert {(row["species"], row["island"]): row["mean_body_mass_g"] for row in report.json_rows} == pytest.approx(
        expected
    )
    assert report.workbook.sheetnames == ["Penguins"]


def test_artifacts_have_the_order_of_the_formats_and_their_media_types(run_report: RunReport) -> None:
    report = run_report("SELECT 1 AS one", formats=["xlsx", "csv", "json"])

    assert [(artifact.name, artifact.media_type) for artifact in report.context.artifacts] == [
        ("report.xlsx", "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"),
        ("report.csv", "text/csv"),
        ("report.json", "application/json"),
    ]


def test_several_sources_can_be_joined(run_report: RunReport) -> None:
    report = run_report(
        "SELECT p.species, n.latin FROM Penguins p JOIN names n USING (species) GROUP BY ALL ORDER BY 1",
        penguins=PENGUINS,
        names=(b'[{"species": "Adelie", "latin": "P. adeliae"}]', "application/json"),
    )

    assert report.csv_rows == [["species", "latin"], ["Adelie", "P. adeliae"]]


def test_dates_of_the_weather_are_dates(run_report: RunReport) -> None:
    report = run_report(
        "SELECT date, temp_max FROM weather ORDER BY date LIMIT 1", formats=["csv", "xlsx", "json"], weather=WEATHER
    )

    assert report.result.columns[0].type == "DATE"
    assert report.csv_rows[1] == ["2012-01-01", "12.8"]
    assert [str(value) for value in report.xlsx_rows[1]] == ["2012-01-01 00:00:00", "12.8"]
    assert report.json_rows == [{"date": "2012-01-01", "temp_max": 12.8}]


@pytest.mark.parametrize(
    "query",
    ["FROM penguins", "SUMMARIZE penguins", "PIVOT penguins ON year IN (2007, 2008) USING count(*) GROUP BY species"],
)
def test_every_statement_that_reads_can_be_a_report(run_report: RunReport, query: str) -> None:
    assert run_report(query).result.columns


@pytest.mark.parametrize(
    ("query", "words"), [("SELECT 1; SELECT 2", "exactly one statement"), ("SELECT error('no more')", "no more")]
)
def test_a_query_that_is_refused_or_fails_says_why(run_report: RunReport, query: str, words: str) -> None:
    with pytest.raises(Failed, match=words) as caught:
        run_report(query)

    assert caught.value.type == "/problems/invalid-query"
    assert not caught.value.retryable


@pytest.mark.parametrize(
    ("query", "line", "column"),
    [
        ("SELEC 1", 1, 1),
        ("SELECT 1\nFROM penguins\n  WHERE )", 3, 9),
        ("SELECT species,\n  'é', wings FROM penguins", 2, 8),
        ("SELECT *\nFROM walruses", 2, 6),
        ("SELECT\n\n  flap(species) FROM penguins", 3, 3),
    ],
)
def test_an_invalid_query_is_located_by_line_and_column(
    run_report: RunReport, query: str, line: int, column: int
) -> None:
    with pytest.raises(Failed) as caught:
        run_report(query)

    assert caught.value.type == "/problems/invalid-query"
    assert caught.value.data == {"line": line, "column": column}


def test_a_cast_that_fails_makes_the_query_invalid_and_not_the_file(run_report: RunReport) -> None:
    with pytest.raises(Failed) as caught:
        run_report("SELECT CAST(species AS INTEGER) FROM penguins")

    assert caught.value.type == "/problems/invalid-query"
    assert "A value cannot be converted to INTEGER" in (caught.value.detail or "")
    assert "Adelie" not in str(caught.value)


def test_try_cast_gives_null_and_a_cast_to_text_the_text_of_the_value(run_report: RunReport) -> None:
    report = run_report("SELECT TRY_CAST(a AS INT) AS i, b::VARCHAR AS t FROM t", t=b"a,b\nx,1E5\n12,2.50\n")

    assert report.csv_rows[1:] == [["", "100000.0"], ["12", "2.5"]]


def test_columns_of_the_same_name_are_numbered(run_report: RunReport) -> None:
    report = run_report("SELECT 1 AS a, 2 AS a, 3 AS A, 4 AS a_2", formats=["csv", "json"])

    assert report.csv_rows[0] == ["a", "a_3", "A_4", "a_2"]
    assert report.json_rows == [{"a": 1, "a_3": 2, "A_4": 3, "a_2": 4}]


def test_a_null_character_in_a_name_is_replaced_in_every_format(run_report: RunReport) -> None:
    report = run_report("FROM t", formats=["csv", "json"], t=(b'{"a\\u0000b": 1, "a\\ufffdb": 2}', "application/json"))

    names = ["a\ufffdb", "a\ufffdb_2"]
    assert [column.name for column in report.result.columns] == names
    assert report.csv_rows[0] == names
    assert report.json_rows == [dict(zip(names, [1, 2], strict=True))]


def test_a_long_expression_needs_no_alias(run_report: RunReport) -> None:
    report = run_report("SELECT " + " + ".join(["1"] * 200), formats=["csv", "json"])

    assert len(report.result.columns[0].name) == 255
    assert report.csv_rows[1] == ["200"]


def test_a_report_without_rows_has_its_columns(run_report: RunReport) -> None:
    report = run_report("SELECT species FROM penguins WHERE false", formats=["csv", "json", "xlsx"])

    assert report.result.rows == 0
    assert report.contents["report.csv"] == b"species\r\n"
    assert report.json_rows == []
    assert report.xlsx_rows == [["species"]]


def test_csv_follows_rfc_4180_and_distinguishes_null_from_empty(run_report: RunReport) -> None:
    report = run_report("""SELECT 'a "b", c' AS x, '' AS y, NULL AS z, E'1\\n2' AS "n, m", ' s' AS s""")

    assert report.contents["report.csv"] == b'x,y,z,"n, m",s\r\n"a ""b"", c","",,"1\n2"," s"\r\n'


INJECTIONS = [
    "=1+1",
    "=cmd|' /C calc'!A0",
    '=HYPERLINK("http://example.invalid","x")',
    "+1+1",
    "-1+1",
    "@SUM(A1)",
    "\t=1+1",
    "\r=1+1",
    "\n=1+1",
    "＝1+1",
    "--5",
    "-",
    "http://example.invalid/",
    "<r><t>x</t></r>",
    '<r></r></is></c><c r="C9"><f>1+1</f></c><c r="D9" t="inlineStr"><is><r></r>',
    "_x0041_",
]
NUMBERS_AS_TEXT = ["-12.5", "+3", "-1e5", "-.5"]


def injected_table() -> tuple[bytes, str]:
    return json.dumps([{"i": i, "cell": cell} for i, cell in enumerate(INJECTIONS + NUMBERS_AS_TEXT)]).encode(), (
        "application/json"
    )


def test_cells_that_look_like_formulas_stay_texts_in_xlsx(run_report: RunReport) -> None:
    report = run_report(
        """SELECT cell AS "=1+1", cell FROM evil ORDER BY i""", formats=["xlsx", "json"], evil=injected_table()
    )

    cells = report.xlsx_cells
    assert cells[0][0].value == "=1+1"
    assert {cell.data_type for row in cells for cell in row} == {"s"}
    assert not any(cell.hyperlink for row in cells for cell in row)
    assert [row[1].value for row in cells[1:-5]] == [cell.replace("\r", "_x000D_") for cell in INJECTIONS[:-1]]
    assert len(cells) == 1 + len(INJECTIONS + NUMBERS_AS_TEXT)
    assert [row["cell"] for row in report.json_rows] == INJECTIONS + NUMBERS_AS_TEXT


def test_csv_cells_that_look_like_formulas_are_quoted_unless_numbers(run_report: RunReport) -> None:
    report = run_report('SELECT cell, cell AS "=1+1" FROM evil ORDER BY i', evil=injected_table())

    cells = [row[0] for row in report.csv_rows[1:]]
    dangerous = [cell for cell in INJECTIONS if cell[0] in "=+-@\t\r\n＝"]
    assert report.csv_rows[0] == ["cell", "'=1+1"]
    assert cells == [f"'{cell}" if cell in dangerous else cell for cell in INJECTIONS] + NUMBERS_AS_TEXT
    assert b'"\'=1+1"' in report.contents["report.csv"]


def test_nested_cells_cannot_begin_a_formula_either(run_report: RunReport) -> None:
    report = run_report("SELECT ['=1+1'] AS l, {'=2': '=3'} AS s", formats=["csv", "json"])

    assert report.csv_rows[1] == ['["=1+1"]', '{"=2":"=3"}']
    assert report.json_rows == [{"l": ["=1+1"], "s": {"=2": "=3"}}]


EVERY_TYPE = """
SELECT true AS yes, 42 AS i, 9007199254740993 AS big, 170141183460469231731687303715884105727::HUGEINT AS huge,
    1.50 AS money, 123456789012345678.12::DECIMAL(30, 2) AS much, 0.1::DOUBLE AS tenth, 'nan'::DOUBLE AS nan,
    '-inf'::DOUBLE AS inf, DATE '2024-02-29' AS day, DATE '1899-12-31' AS old, TIME '01:02:03.5' AS clock,
    TIMESTAMP '2024-02-29 12:30:00.25' AS moment, TIMESTAMPTZ '2024-02-29 12:30:00+02' AS zoned,
    INTERVAL '1 day 3.5 seconds' AS span, INTERVAL '-1 hour' AS back, '\\xAA\\x00'::BLOB AS bytes,
    '6f1c1e0e-0000-4000-8000-000000000001'::UUID AS id, [1, NULL] AS list, {'k': DATE '2024-01-01'} AS struct,
    MAP {1: 'x'} AS map, '{"deep": [1, 2.5]}'::JSON AS json, NULL AS nothing, 'a'::ENUM ('a', 'b') AS choice
"""


def test_every_type_has_its_form_in_json(run_report: RunReport) -> None:
    assert run_report(EVERY_TYPE, formats=["json"]).json_rows == [
        {
            "yes": True,
            "i": 42,
            "big": "9007199254740993",
            "huge": "170141183460469231731687303715884105727",
            "money": 1.5,
            "much": "123456789012345678.12",
            "tenth": 0.1,
            "nan": "NaN",
            "inf": "-Infinity",
            "day": "2024-02-29",
            "old": "1899-12-31",
            "clock": "01:02:03.500000",
            "moment": "2024-02-29T12:30:00.250000",
            "zoned": "2024-02-29T10:30:00Z",
            "span": "P1DT3.5S",
            "back": "PT-3600S",
            "bytes": "qgA=",
            "id": "6f1c1e0e-0000-4000-8000-000000000001",
            "list": [1, None],
            "struct": {"k": "2024-01-01"},
            "map": {"1": "x"},
            "json": {"deep": [1, 2.5]},
            "nothing": None,
            "choice": "a",
        }
    ]


def test_every_type_has_its_form_in_csv(run_report: RunReport) -> None:
    names, values = run_report(EVERY_TYPE).csv_rows
    row = dict(zip(names, values, strict=True))

    assert row["yes"] == "true"
    assert row["big"] == "9007199254740993"
    assert row["money"] == "1.50"
    assert row["much"] == "123456789012345678.12"
    assert row["inf"] == "-Infinity"
    assert row["moment"] == "2024-02-29 12:30:00.250000"
    assert row["zoned"] == "2024-02-29 10:30:00Z"
    assert row["struct"] == '{"k":"2024-01-01"}'
    assert row["nothing"] == ""


def test_every_type_has_its_form_in_xlsx(run_report: RunReport) -> None:
    names, cells = run_report(EVERY_TYPE, formats=["xlsx"]).xlsx_cells
    row = {name.value: cell for name, cell in zip(names, cells, strict=True)}

    assert row["yes"].value is True
    assert row["i"].value == 42
    assert row["big"].value == "9007199254740993"
    assert (row["money"].value, row["money"].number_format) == (1.5, "0.00")
    assert row["much"].value == "123456789012345678.12"
    assert row["nan"].value == "NaN"
    assert (row["day"].value.isoformat(), row["day"].number_format) == ("2024-02-29T00:00:00", "yyyy-mm-dd")
    assert row["old"].value == "1899-12-31"
    assert row["clock"].value.isoformat() == "01:02:03.500000"
    assert row["moment"].value.isoformat() == "2024-02-29T12:30:00.250000"
    assert row["zoned"].value.isoformat() == "2024-02-29T10:30:00"
    assert row["list"].value == "[1,null]"
    assert row["nothing"].value is None
    assert names[0].font.bold


def test_infinite_dates_are_the_ends_of_the_calendar_unless_cast(run_report: RunReport) -> None:
    query = """
        SELECT DATE 'infinity' AS last, DATE '-infinity' AS first, TIMESTAMP 'infinity' AS moment,
            (DATE 'infinity')::VARCHAR AS cast_last, (TIMESTAMP '-infinity')::VARCHAR AS cast_first
    """
    report = run_report(query, formats=["json", "xlsx"])

    assert list(report.json_rows[0].values()) == [
        "9999-12-31",
        "0001-01-01",
        "9999-12-31T23:59:59.999999",
        "infinity",
        "-infinity",
    ]
    assert report.xlsx_rows[1][1:3] == ["0001-01-01", "9999-12-31T23:59:59.999999"]


@pytest.mark.parametrize("format_name", ["csv", "json", "xlsx"])
def test_a_value_nested_too_deeply_makes_the_query_invalid(run_report: RunReport, format_name: str) -> None:
    with pytest.raises(Failed, match="nested too deeply") as caught:
        run_report("SELECT " + "[" * 300 + "1" + "]" * 300 + " AS deep", formats=[format_name])

    assert caught.value.type == "/problems/invalid-query"


def test_a_text_too_long_for_a_cell_fails_as_xlsx_and_not_as_csv(run_report: RunReport) -> None:
    assert len(run_report("SELECT repeat('x', 40_000)").csv_rows[1][0]) == 40_000
    with pytest.raises(Failed) as caught:
        run_report("SELECT repeat('😀', 16_384) AS smiles", formats=["xlsx"])

    assert caught.value.type == "/problems/report-too-large"
    assert caught.value.data == {"limit": "cell_characters", "maximum": 32_767}


def test_empty_cells_and_na_are_null_in_a_column_of_numbers(run_report: RunReport) -> None:
    report = run_report("SELECT sum(a), sum(b), count(c) FROM t", t=b'a,b,c\n1,NA,x\n,3,NA\n2,"NA",""\n')

    assert report.csv_rows[1] == ["3", "3", "1"]


@pytest.mark.parametrize(
    ("content", "media_type"),
    [
        ("name,city\nJosé,Málaga\n".encode("latin-1"), "text/plain"),
        ("name;city\r\nJosé;Málaga\r\n".encode("utf-16"), "text/csv"),
        ("name;city\r\nJosé;Málaga\r\n".encode("utf-16-be"), "text/csv"),
        ("name\tcity\nJosé\tMálaga\n".encode(), "text/tab-separated-values"),
        ('[{"name": "José", "city": "Málaga"}]'.encode("utf-8-sig"), "application/json"),
        ('{"name": "José", "city": "Málaga"}\n'.encode(), "text/plain"),
    ],
)
def test_tables_are_read_in_their_encodings_and_shapes(run_report: RunReport, content: bytes, media_type: str) -> None:
    report = run_report("SELECT name, city FROM t", t=(content, media_type))

    assert report.csv_rows == [["name", "city"], ["José", "Málaga"]]


def test_the_log_has_the_number_of_rows_and_of_replaced_bytes(run_report: RunReport) -> None:
    report = run_report("SELECT count(*) FROM t", t="a,b\nGrüße,1\n".encode() * 30 + b"Gr\xe9,1\n")

    assert [(line.level, line.fields) for line in report.context.log_lines] == [
        ("warning", {"source": "t", "replaced_bytes": 1}),
        ("info", {"rows": 1}),
    ]


def test_windows_1252_has_its_euro_sign(run_report: RunReport) -> None:
    report = run_report("FROM t", t="price\n5 €\n\u0081\n".encode("cp1252", "replace").replace(b"?", b"\x81"))

    assert report.csv_rows == [["price"], ["5 €"], ["\x81"]]


def test_parquet_keeps_its_types(run_report: RunReport, tmp_path: Path) -> None:
    content = parquet_of(
        tmp_path, "SELECT i, i::DECIMAL(10, 2) AS d, DATE '2024-01-01' + i::INT AS day FROM range(9) t(i)"
    )
    report = run_report("SELECT max(d) AS d, max(day) AS day FROM t", t=(content, "application/vnd.apache.parquet"))

    assert [column.type for column in report.result.columns] == ["DECIMAL(10,2)", "DATE"]
    assert report.csv_rows[1] == ["8.00", str(date(2024, 1, 9))]


def test_nanoseconds_are_written_in_csv_and_json(run_report: RunReport) -> None:
    query = """SELECT TIMESTAMP_NS '2024-01-01 00:00:00.123456789' AS a, [TIMESTAMP_NS '2024-01-01 00:00:00.5'] AS b,
        TIME_NS '10:00:00.000000001' AS c, i FROM range(3) AS t(i) ORDER BY i DESC; -- the newest first"""

    report = run_report(query, formats=["csv", "json"])

    assert report.csv_rows[1] == [
        "2024-01-01 00:00:00.123456789",
        '["2024-01-01T00:00:00.500000"]',
        "10:00:00.000000001",
        "2",
    ]
    assert [row["i"] for row in report.json_rows] == [2, 1, 0]
    assert report.json_rows[0]["a"] == "2024-01-01T00:00:00.123456789"


def test_types_of_csv_are_found_as_the_description_says(run_report: RunReport) -> None:
    content = """\
t;word;int;hex;bin;exponent;point;long;zero;plus;comma;thousand;at
T;Yes;5;0x10;0b11;1E5;1.10;0.1234567890123456789;00123;+5;1,5;1_000;1:30
f;no;12345678901234567890123456789012345678901;0x11;0b1;2;2;1;7;6;2;2;2:30
"""

    described = run_report("DESCRIBE t", t=content.encode()).csv_rows[1:]
    values = run_report("FROM t", t=content.encode()).csv_rows[1]

    assert [(name, column_type, value) for (name, column_type, *_), value in zip(described, values, strict=True)] == [
        ("t", "BOOLEAN", "true"),
        ("word", "BOOLEAN", "true"),
        ("int", "BIGNUM", "5"),
        ("hex", "BIGINT", "16"),
        ("bin", "BIGINT", "3"),
        ("exponent", "DOUBLE", "100000.0"),
        ("point", "DOUBLE", "1.1"),
        ("long", "DOUBLE", "0.12345678901234568"),
        ("zero", "VARCHAR", "00123"),
        ("plus", "VARCHAR", "+5"),
        ("comma", "VARCHAR", "1,5"),
        ("thousand", "VARCHAR", "1_000"),
        ("at", "TIME", "01:30:00"),
    ]


def test_types_of_json_are_found_as_the_description_says(run_report: RunReport) -> None:
    content = b"""{"code": "1E5", "yes": "t", "long": 18446744073709551615, "longer": 18446744073709551616, "at": "1:30",
        "id": "6f1c1e0e-0000-4000-8000-000000000001", "exact": "0.1234567890123456789", "point": 1.10}"""

    report = run_report("FROM t", formats=["json"], t=(content, "application/json"))

    assert [column.type for column in report.result.columns] == [
        *("VARCHAR", "VARCHAR", "HUGEINT", "DOUBLE", "TIME", "UUID", "VARCHAR", "DOUBLE")
    ]
    assert report.json_rows[0]["long"] == "18446744073709551615"
    assert report.json_rows[0]["exact"] == "0.1234567890123456789"


def test_ambiguous_dates_are_text(run_report: RunReport) -> None:
    content = b"day,made,us\n31.12.24,2024-01-02,1/2/2024\n15.11.24,2024-01-03,3/4/2024\n"
    query = "SELECT made + 1 AS next, day, us, strptime(day, '%d.%m.%y')::DATE AS read FROM t ORDER BY made"

    report = run_report(query, t=content)
    in_json = run_report("FROM t", formats=["json"], t=(b'{"day": "31-12-24"}', "application/json"))

    assert report.csv_rows[1:] == [
        ["2024-01-03", "31.12.24", "1/2/2024", "2024-12-31"],
        ["2024-01-04", "15.11.24", "3/4/2024", "2024-11-15"],
    ]
    assert in_json.json_rows == [{"day": "31-12-24"}]


def test_a_value_of_another_type_far_down_the_file_is_read(run_report: RunReport) -> None:
    content = b"a,b\n" + b"1,2\n" * 30_000 + b"x,5\n"

    assert run_report("SELECT count(*) FROM t WHERE a = 'x'", t=content).csv_rows[1] == ["1"]


@pytest.mark.parametrize(
    ("content", "media_type", "words"),
    [
        (b"a,b\n1,2\n3\n4,5\n", "text/csv", "line 3 has 1 cell, and the first has 2"),
        (b'{"a": 1}\n{"a": ', "application/x-ndjson", "not valid JSON: line 2"),
        (b"PAR1 and nothing else", "application/vnd.apache.parquet", "damaged or cut short"),
    ],
)
def test_an_unreadable_file_is_named_by_its_source(
    run_report: RunReport, tmp_path: Path, content: bytes, media_type: str, words: str
) -> None:
    with pytest.raises(Failed, match=words) as caught:
        run_report("SELECT 1", penguins=PENGUINS, broken=(content, media_type))

    assert caught.value.type == "/problems/unreadable-table"
    assert caught.value.data == {"source": "broken"}
    assert str(tmp_path) not in str(caught.value)
    assert "sources/" not in str(caught.value)


def large_json(values: int) -> tuple[bytes, str]:
    """One object that holds so many numbers of seven digits, in eight bytes each."""
    return b'{"all": [' + b"1234567," * (values - 1) + b"1234567]}", "application/json"


def test_a_large_json_value_is_read(run_report: RunReport) -> None:
    assert run_report('SELECT len("all") FROM t', t=large_json(5_000_000)).csv_rows[1] == ["5000000"]


def test_a_json_value_that_is_too_large_has_an_error_of_its_own(run_report: RunReport) -> None:
    with pytest.raises(Failed, match="has more than 128 MiB") as caught:
        run_report("FROM t", t=large_json(17_000_000))

    assert caught.value.type == "/problems/unreadable-table"


def test_a_parquet_file_that_is_damaged_behind_its_start_is_named_too(run_report: RunReport, tmp_path: Path) -> None:
    content = parquet_of(tmp_path, "SELECT 'x' || i AS s FROM range(1000) t(i)")
    with pytest.raises(Failed) as caught:
        run_report("FROM t", t=(content[:200] + bytes(300) + content[500:], "application/vnd.apache.parquet"))

    assert caught.value.type == "/problems/unreadable-table"
    assert caught.value.data == {"source": "t"}


def test_an_endless_query_is_timed_out(
    run_report: RunReport, monkeypatch: pytest.MonkeyPatch, limited_children: LimitedChildren
) -> None:
    run_child = MemoryContext.run_child
    monkeypatch.setattr(
        MemoryContext, "run_child", lambda self, *args, **options: run_child(self, *args, timeout_seconds=2, **options)
    )
    with pytest.raises(Failed) as caught:
        run_report("SELECT sum(a.i * b.i) FROM range(1_000_000_000) a(i), range(1_000_000_000) b(i)")

    assert caught.value.type == "/problems/timed-out"
    assert not limited_children()


def test_an_endless_recursion_ends_when_the_task_is_cancelled(
    run_report: RunReport, limited_children: LimitedChildren
) -> None:
    started = time.monotonic()
    with pytest.raises(Cancelled):
        run_report(
            "WITH RECURSIVE t(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM t) SELECT count(*) FROM t",
            stop_after_seconds=1,
        )

    assert time.monotonic() - started < 20
    assert not limited_children()


@pytest.mark.parametrize(
    "query", ["SELECT list(i) FROM range(1_000_000_000) t(i)", "SELECT repeat('x', 4_000_000_000)"]
)
def test_a_query_that_needs_too_much_memory_is_out_of_memory(
    run_report: RunReport, query: str, limited_children: LimitedChildren
) -> None:
    with pytest.raises(Failed) as caught:
        run_report(query)

    assert caught.value.type == "/problems/out-of-memory"
    assert not limited_children()


@pytest.mark.parametrize(
    ("limits", "query", "data"),
    [
        (ReportLimits(max_rows=9_999), "FROM range(10_000)", {"limit": "rows", "maximum": 9_999}),
        (ReportLimits(max_columns=2), "SELECT 1, 2, 3", {"limit": "columns", "maximum": 2}),
        (ReportLimits(max_format_bytes=9), "SELECT '123456789'", {"limit": "bytes", "maximum": 9}),
        (
            ReportLimits(query_memory_bytes=128 << 20, spill_bytes=64 << 20),
            "FROM range(20_000_000) t(i) ORDER BY hash(i)",
            {"limit": "spill_bytes", "maximum": 64 << 20},
        ),
    ],
    ids=["rows", "columns", "bytes", "spill"],
)
def test_a_report_that_goes_past_a_limit_fails_and_names_it(
    run_report: RunReport,
    monkeypatch: pytest.MonkeyPatch,
    limits: ReportLimits,
    query: str,
    data: dict[str, object],
) -> None:
    monkeypatch.setattr(run, "LIMITS", limits)

    with pytest.raises(Failed) as caught:
        run_report(query)

    assert caught.value.type == "/problems/report-too-large"
    assert caught.value.data == data
    assert not caught.value.retryable


def test_the_limits_of_a_report_are_the_documented_ones() -> None:
    assert ReportLimits() == ReportLimits(
        query_memory_bytes=1 << 30,
        spill_bytes=4 << 30,
        query_threads=2,
        max_rows=10_000_000,
        max_columns=2_000,
        max_format_bytes=1 << 30,
    )


def test_a_million_rows_stream_through_a_child_of_constant_size(
    run_report: RunReport, limited_children: LimitedChildren
) -> None:
    peak = 0
    ended = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not ended.wait(0.05):
            peak = max([peak, *(memory_bytes(child) for child in limited_children())])

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        report = run_report("SELECT i, 'name ' || i AS name, i * 1.5::DOUBLE AS amount FROM range(1_000_000) t(i)")
    finally:
        ended.set()
        watcher.join(PATIENCE_SECONDS)

    assert report.result.rows == 1_000_000
    assert report.contents["report.csv"].count(b"\r\n") == 1_000_001
    assert 0 < peak < 300 << 20
    percents = [percent for percent, _ in report.context.progress_calls]
    assert percents == sorted(percents)
    assert any("Writing" in (message or "") for _, message in report.context.progress_calls)


def memory_bytes(process: psutil.Process) -> int:
    try:
        return process.memory_info().rss
    except psutil.NoSuchProcess:
        return 0


def test_a_report_with_more_rows_than_the_quota_names_the_quota(tmp_path: Path) -> None:
    context = MemoryContext(tmp_path)
    context.limits = HeldLimits(organization=Limits(report_rows=9))
    source = {"name": "penguins", "file_id": context.add_input(PENGUINS, "penguins", "text/csv")}
    params = RunParams.model_validate({"sources": [source], "query": "FROM range(10)", "formats": ["csv"]})

    with pytest.raises(Failed) as failed:
        handle(params, context)

    assert (failed.value.type, failed.value.data) == ("/problems/quota-report-rows", {"maximum": 9})
