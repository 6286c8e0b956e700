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
"""Every media type in use for CSV, JSON, newline-delimited JSON and Parquet. IANA registered `application/vnd.apache.parquet`."""

Format = Literal["csv", "xlsx", "json"]


class ReportSource(Params):
    """An uploaded table, and its name in the query."""

    name: Annotated[
        str,
        Field(
            pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,62}$",
            description=(
                "The table's name in the query: letters, digits and underscores. Upper and lower case are the same. "
                "A reserved word of SQL, such as `order`, must be in double quotes in the query."
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
    """Tables, a query over them, and the formats of the report."""

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
                    "duplicate_source_name", "Two sources have the name {name}.", {"name": source.name}
                )
            seen.add(source.name.lower())
        return sources

    @field_validator("formats")
    @classmethod
    def _formats_differ(cls, formats: tuple[Format, ...]) -> tuple[Format, ...]:
        if len(set(formats)) < len(formats):
            raise PydanticCustomError("duplicate_format", "A format is named twice.")
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
whichever are requested.

**Sources.** CSV (separated by commas, semicolons, tabs or bars), Parquet, JSON and newline-delimited JSON. Text that
begins as JSON, or whose file name ends in `.json`, `.jsonl` or `.ndjson`, is JSON.

The encoding of a text is found from its bytes, or given by `encoding`: a byte order mark decides; text that is UTF-8,
except for fewer damaged bytes than it has letters beyond ASCII, is UTF-8, with U+FFFD for these bytes; other text is in the
encoding in which its letters are the likeliest words, and in doubt in windows-1252, which contains Latin-1. The result names
under `sources` the encoding that was used and how many bytes were replaced.

In CSV, the first line is the header, unless `header` is false, and every line must have as many cells as it. Empty lines
before it, and a line such as `sep=;`, are skipped. An empty cell and the cell `NA` are NULL, so that a column of numbers
with gaps is a column of numbers. Fields are quoted with `"`. A row may have 128 MiB, and so may one value of JSON, such as
a line or an object of an array. Behind the first 100,000 of a file of more than 256 MiB, a value of JSON may have 16 MiB, and
a row of many short lines 2 MB.

**Types.** A Parquet file defines its types. In CSV and JSON, a column has the narrowest type that all of its values fit,
or, in a file of more than 256 MiB, its first 100,000. `DESCRIBE` shows them. In JSON only numbers are numbers and only
`true` and `false` are truth values, while dates, times and UUIDs are recognized in texts. Values of JSON that fit no common
type, such as `10` and `"n/a"`, are VARIANT: they compare with texts and numbers (`m = 'n/a'`), `TRY_CAST(m AS DOUBLE)` makes
numbers of them, and functions of JSON take them as `m::JSON`. In CSV everything is recognized in texts, so that codes which
look like another type become it:

- A column is BOOLEAN where all cells are `true`, `t`, `yes`, `false`, `f` or `no`, in capitals or not.
- Integers are integers of any length; in JSON, those beyond 2^64 - 1 are DOUBLE. `0x10` is 16 and `0b11` is 3.
- Numbers with a point or an exponent are DOUBLE, which keeps 15 significant digits and not how they were written:
  `1E5` becomes 100000.0 and `1.10` becomes 1.1. To keep more digits, use Parquet with DECIMAL, or texts in JSON.
- A column with a leading zero (`00123`), a plus sign, a decimal comma or a separator of thousands in it is text.
- A column is of dates only if each begins with the four digits of its year, such as `2024-12-31`. Others, such as
  `31.12.24` or `1/2/2024`, are text, since nothing in the file says which number is the day: `strptime(day, '%d.%m.%y')`
  reads them. A column of times or timestamps with digits beyond microseconds is text too, which a cast to TIMESTAMP_NS reads.
  A JSON file that has such dates or times keeps all of them as text. `1:30` is a time of the day.

**Query.** DuckDB's SQL: `SELECT`, `WITH … SELECT`, `FROM … SELECT`, `VALUES`, `DESCRIBE`, `SUMMARIZE`, and `PIVOT`
with its values listed (`IN (…)`). It can read the sources and nothing else: no file, no network, no setting. A cast that
fails ends the report; `TRY_CAST` gives NULL in its place.

**CSV** follows RFC 4180 in UTF-8, lines ending in CR LF, names first. NULL is an empty cell and an empty text is `""`.
A text that a spreadsheet might take for a formula, one that begins with `=`, `+`, `-`, `@`, tab or return, is quoted
and begins with an apostrophe, unless it is a number (OWASP, CSV Injection).

**XLSX** has numbers, booleans, dates and times as such, and every text as a text, never as a formula or a link. An
integer or a DECIMAL of more than 15 significant digits, which a spreadsheet would round, is a text; a DOUBLE is rounded
to 16 digits. Beyond 1,048,575 rows a further sheet begins.

**JSON** is an array of objects. An integer beyond 2^53 - 1, or a DECIMAL of more than 15 significant digits, is a
string with all its digits, if it had them when it was read (see Types).

Everywhere, FLOAT is the shortest number that reads back as the same FLOAT; dates and times are ISO 8601, TIMESTAMP WITH
TIME ZONE is in UTC, and times have every digit that their type has (in XLSX, to the millisecond, or as a text); BLOB is
Base64; lists, structs and maps are JSON; a value of type JSON or VARIANT is written as what it is, so that a text has no
quotes in a cell; INTERVAL is an ISO 8601 duration, in which a month has 30 days; NaN and the infinities of DOUBLE are
`NaN`, `Infinity` and `-Infinity`. Years beyond 9999 are written with all of their digits, and years before 1 as XML Schema
1.1 writes them: `-0043-03-15` is in 44 BC. The dates and timestamps `infinity` and `-infinity` are the last and the first
of the calendar, `9999-12-31` and `0001-01-01`, unless the query casts them to VARCHAR. Control characters stay what they
are, in XLSX as `_x0001_`.

Errors: `/problems/invalid-query` (`data`: `{line, column}`, from 1, where known), `/problems/unreadable-table`
(`data`: `{source}`), `/problems/report-too-large` (`data`: `{limit, maximum}`), `/problems/out-of-memory`,
`/problems/storage-full` and `/problems/timed-out`. Errors name the line at fault and quote no value of a file.""",
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
            "The report exceeds what it may write. `data.limit` names the limit: `rows`, `columns`, `bytes` (of one "
            "format), `spill_bytes` (of temporary storage), or, in XLSX only, `cell_characters` or `xlsx_columns`; "
            "`data.maximum` is its value."
        ),
        "quota-report-rows": (
            "The report has more rows than the caller or its organization may have in one. `data.maximum` is how many they may."
        ),
    },
)
