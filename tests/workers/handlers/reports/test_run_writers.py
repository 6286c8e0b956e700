"""The limits of the formats, with limits small enough to reach."""

from __future__ import annotations

from pathlib import Path

import openpyxl
import pytest

from workers.handlers.reports import _xlsx_writer
from workers.handlers.reports._csv_writer import CsvWriter
from workers.handlers.reports._json_writer import JsonWriter
from workers.handlers.reports._values import Column
from workers.handlers.reports._xlsx_writer import XlsxWriter, safe_sheet_name
from workers.outcomes import Failed

COLUMNS = [Column("i", "BIGINT"), Column("name", "VARCHAR")]


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("writer_class", [CsvWriter, JsonWriter])
def test_a_report_that_grows_too_large_stops_there(
    writer_class: type[CsvWriter | JsonWriter],
) -> None:
    with Path("report").open("wb") as file:
        writer = writer_class(file, COLUMNS, None, 10_000)
        with pytest.raises(Failed) as caught:
            for i in range(10_000):
                writer.write([(i, "name")])

    assert caught.value.type == "/problems/report-too-large"
    assert caught.value.data == {"limit": "bytes", "maximum": 10_000}
    assert Path("report").stat().st_size <= 10_000


def test_a_workbook_that_grows_too_large_stops_there() -> None:
    with Path("report.xlsx").open("wb") as file:
        writer = XlsxWriter(file, COLUMNS, None, 100_000)
        with pytest.raises(Failed) as caught:
            writer.write([(i, "name") for i in range(10_000)])
        # So that the temporary files of the workbook are closed.
        writer.max_bytes = 1 << 30
        writer.finish()

    assert caught.value.type == "/problems/report-too-large"


def test_rows_that_do_not_fit_a_sheet_continue_in_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_xlsx_writer, "SHEET_ROWS", 11)
    with Path("report.xlsx").open("wb") as file:
        writer = XlsxWriter(file, COLUMNS, "A title that is longer than a sheet's name may be", 1 << 30)
        writer.write([(i, f"name {i}") for i in range(25)])
        writer.finish()

    workbook = openpyxl.load_workbook("report.xlsx")
    assert workbook.sheetnames == [
        "A title that is longer than a s",
        "A title that is longer than (2)",
        "A title that is longer than (3)",
    ]
    assert [sheet.max_row for sheet in workbook] == [11, 11, 6]
    assert all([cell.value for cell in sheet[1]] == ["i", "name"] for sheet in workbook)
    assert [row[0].value for sheet in workbook for row in sheet.iter_rows(min_row=2)] == list(range(25))
    assert all(sheet.freeze_panes == "A2" for sheet in workbook)
    assert workbook.worksheets[2].auto_filter.ref == "A1:B6"


@pytest.mark.parametrize(
    ("title", "name"),
    [
        (None, "Report"),
        ("", "Report"),
        ("Sales", "Sales"),
        ("a/b: [c]*?\\", "a b c"),
        ("'quoted'", "quoted"),
        ("History", "Report"),
        ("\x00\x1b\n", "Report"),
        ("😀" * 20, "😀" * 15),
        ("x" * 31 + "y", "x" * 31),
        ("x" * 30 + "' y", "x" * 30),
    ],
)
def test_a_sheet_gets_a_valid_name_from_any_title(title: str | None, name: str) -> None:
    assert safe_sheet_name(title) == name
