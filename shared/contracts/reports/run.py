"""`reports.run`: one SELECT over uploaded tables, as CSV, XLSX and JSON."""

from __future__ import annotations

from typing import Annotated, Literal
from uuid import UUID

from pydantic import Field, field_validator
from pydantic_core import PydanticCustomError

from shared.contracts.kind import FileReference, Kind, Params, Result
from shared.contracts.text_encodings import ENCODING_DESCRIPTION, EncodingName

TABLE_MEDIA_TYPES = (
    "text/csv",
    "text/plain",
    "text/tab-separated-values",
    "application/csv",
    "application/json",
    "application/jsonl",
    "application/ndjson",
    "application/x-ndjson",
    "application/vnd.apache.parquet",
    "application/x-parquet",
)
"""Every name in use for CSV, JSON, newline-delimited JSON and Parquet; Parquet's is the one registered with IANA."""

Format = Literal["csv", "xlsx", "json"]


class ReportSource(Params):
    """An uploaded table, under the name that the query calls it by."""

    name: Annotated[
        str,
        Field(
            pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,62}$",
            description=(
                "The table's name in the query: letters, digits and underscores. Upper and lower case are the same. "
                "A reserved word of SQL, such as `order`, must stand in double quotes in the query."
            ),
        ),
    ]
    file_id: Annotated[
        UUID,
        FileReference(accepts=TABLE_MEDIA_TYPES),
        Field(description="A stored file: CSV, Parquet, JSON (an array of objects) or newline-delimited JSON."),
    ]
    header: Annotated[
        bool,
        Field(
            description="For CSV: whether the first line holds the names of the columns. If not, they are called "
            "`column0`, `column1` and so on."
        ),
    ] = True
    encoding: Annotated[EncodingName | None, Field(description=ENCODING_DESCRIPTION)] = None


class RunParams(Params):
    """Tables, a query over them, and the formats of the answer."""

    title: Annotated[
        str | None,
        Field(max_length=200, description="The report's title: the name of the XLSX sheet and of the document."),
    ] = None
    sources: Annotated[
        tuple[ReportSource, ...],
        Field(
            min_length=1, max_length=32, description="The tables that the query may read, each by a name of its own."
        ),
    ]
    query: Annotated[
        str,
        Field(
            min_length=1,
            max_length=100_000,
            description="Exactly one SELECT statement in DuckDB's SQL. It can read the sources and nothing else.",
        ),
    ]
    formats: Annotated[
        tuple[Format, ...],
        Field(
            min_length=1,
            max_length=3,
            description="The formats to write, each once. The query runs once, however many there are.",
            json_schema_extra={"uniqueItems": True},
        ),
    ] = ("csv",)

    @field_validator("sources")
    @classmethod
    def _names_differ(cls, sources: tuple[ReportSource, ...]) -> tuple[ReportSource, ...]:
        seen: set[str] = set()
        for source in sources:
            if source.name.lower() in seen:
                raise PydanticCustomError(
                    "duplicate_source_name", "two sources bear the name {name}", {"name": source.name}
                )
            seen.add(source.name.lower())
        return sources

    @field_validator("formats")
    @classmethod
    def _formats_differ(cls, formats: tuple[Format, ...]) -> tuple[Format, ...]:
        if len(set(formats)) < len(formats):
            raise PydanticCustomError("duplicate_format", "a format is named twice")
        return formats


class ReportColumn(Result):
    """One column of the report."""

    name: Annotated[str, Field(description="Unique in the report: a second `a` is called `a_2`.")]
    type: Annotated[str, Field(description="DuckDB's name of the type, such as `BIGINT` or `DECIMAL(10,2)`.")]


class SourceFacts(Result):
    """How a source was read."""

    name: Annotated[str, Field(description="The source's name.")]
    encoding: Annotated[str | None, Field(description="The character encoding of its text; null for Parquet.")] = None
    replaced_bytes: Annotated[
        int,
        Field(ge=0, description="How many bytes are not valid in the encoding. U+FFFD stands for them in the text."),
    ] = 0


class RunResult(Result):
    """The shape of the report; its rows are in the artifacts."""

    rows: Annotated[int, Field(ge=0, description="How many rows the report has.")]
    columns: Annotated[tuple[ReportColumn, ...], Field(description="The columns, from left to right.")]
    sources: Annotated[
        tuple[SourceFacts, ...], Field(description="How the sources were read, in the order of the params.")
    ] = ()


KIND = Kind(
    params=RunParams,
    result=RunResult,
    title="Run a report",
    description="""\
Runs exactly one SELECT over uploaded tables and writes the rows as `report.csv`, `report.xlsx` and `report.json`,
whichever are asked for.

**Sources.** CSV (also with tabs or semicolons), Parquet, JSON and newline-delimited JSON. Text may be UTF-8, UTF-16
or UTF-32 with a byte order mark, or else Windows-1252, which contains Latin-1. In CSV, an empty cell and the cell `NA`
are NULL, so that a column of numbers with gaps is a column of numbers; fields are quoted with `"`; every line must have
as many cells as the first. One value of JSON, such as a line or an object of an array, may have 128 MiB (16 MiB behind
the first 100,000 in a file of more than 256 MiB).

**Types.** Parquet says them. In CSV and JSON, which do not, a column has the narrowest type that all of its values fit,
or, in a file of more than 256 MiB, its first 100,000. `DESCRIBE` tells which. In JSON only numbers are numbers and only
`true` and `false` are truth values, while dates, times and UUIDs are looked for in texts. In CSV everything is, so that
codes which look like another type become it:

- A column is BOOLEAN where all cells are `true`, `t`, `yes`, `false`, `f` or `no`, in capitals or not.
- Integers are integers of any length; in JSON, those beyond 2^64 - 1 are DOUBLE. `0x10` is 16 and `0b11` is 3.
- Numbers with a point or an exponent are DOUBLE, which keeps 15 significant digits and not how they were written:
  `1E5` becomes 100000.0 and `1.10` becomes 1.1. What has to keep more comes as Parquet with DECIMAL or as texts of JSON.
- A column with a leading zero (`00123`), a plus sign, a decimal comma or a separator of thousands in it is text.
- A column is of dates only if each begins with the four digits of its year, such as `2024-12-31`. Others, such as
  `31.12.24` or `1/2/2024`, are text, since nothing in the file says which number is the day: `strptime(day, '%d.%m.%y')`
  reads them. A JSON file that has such dates keeps all of its dates as text. `1:30` is a time of the day.

**Query.** DuckDB's SQL: `SELECT`, `WITH … SELECT`, `FROM … SELECT`, `VALUES`, `DESCRIBE`, `SUMMARIZE`, and `PIVOT`
with its values listed (`IN (…)`). It sees the sources and nothing else: no file, no network, no setting.

**CSV** follows RFC 4180 in UTF-8, lines ending in CR LF, names first. NULL is an empty cell and an empty text is `""`.
A text that a spreadsheet might take for a formula, one that begins with `=`, `+`, `-`, `@`, tab or return, is quoted
and begins with an apostrophe, unless it is a number (OWASP, CSV Injection).

**XLSX** has numbers, booleans, dates and times as such, and every text as a text, never as a formula or a link. An
integer or a DECIMAL of more than 15 significant digits, which a spreadsheet would round, is a text; a DOUBLE is rounded
to 16 digits. Beyond 1,048,575 rows a further sheet begins.

**JSON** is an array of objects. An integer beyond 2^53 - 1, or a DECIMAL of more than 15 significant digits, is a
string with all its digits, if it had them when it was read (see Types).

Everywhere, dates and times are ISO 8601, TIMESTAMP WITH TIME ZONE is in UTC, and times are to the microsecond (to the
millisecond in XLSX); BLOB is Base64; lists, structs and maps are JSON; INTERVAL is an ISO 8601 duration, in which a
month has 30 days; NaN and the infinities of DOUBLE are `NaN`, `Infinity` and `-Infinity`. The dates and timestamps
`infinity` and `-infinity` are the last and the first of the calendar, `9999-12-31` and `0001-01-01`, unless the query
casts them to VARCHAR.

Errors: `/problems/invalid-query` (`data`: `{line, column}`, from 1, where known), `/problems/unreadable-table`
(`data`: `{source}`), `/problems/report-too-large` (`data`: `{limit, maximum}`), `/problems/out-of-memory`,
`/problems/timed-out`.""",
    example={
        "sources": [{"name": "sales", "file_id": "0199c0de-0000-7000-8000-000000000001"}],
        "query": "SELECT region, sum(amount) AS total FROM sales GROUP BY region ORDER BY region",
        "formats": ["csv", "xlsx"],
    },
    queue="reports",
    max_attempts=3,
    timeout_seconds=600,
    errors={
        "invalid-query": (
            "The query is not exactly one SELECT over the sources, or cannot be run. `data` has `line` and `column`, "
            "from 1, where they are known."
        ),
        "unreadable-table": "A source cannot be read as a table. `data.source` is its name.",
        "report-too-large": (
            "The report exceeds what may be written. `data.limit` says in what: `rows`, `columns`, `bytes` (of one "
            "format), or, in XLSX only, `cell_characters` or `xlsx_columns`; `data.maximum` says how much is allowed."
        ),
    },
)
