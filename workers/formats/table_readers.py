"""Chooses how DuckDB reads CSV and JSON that callers uploaded: with as little guessing as they allow.

Only what begins with the four digits of a year becomes a date. DuckDB finds one format of dates for a file, by what can
be read and not by what is likely, and takes `31.12.24` for the 24th of December 2031; and what `1/2/2024` means depends
on who wrote it. Such values stay the text that they are, for the query to convert by `strptime`. So do times with more
digits than microseconds have, which DuckDB would cut off. In CSV that is decided for each column, in JSON for the file.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

import duckdb

from workers.formats.csv_form import CsvForm
from workers.formats.duckdb_sandbox import quote_identifier, quote_literal

MAX_JSON_VALUE_BYTES = 128 << 20
"""The largest value that is surely read: an object of an array or of a line, or an array within one object.

DuckDB holds twice as much for each of its two threads, which is half of the memory that a report may use.
"""

MAX_CSV_LINE_BYTES = 128 << 20
"""The longest row of CSV that is read. By default DuckDB reads rows of up to 2 MB."""

_BEGINS_WITH_A_YEAR = r"^\s*[0-9]{4}[^0-9]"
_BELOW_MICROSECONDS = r"[.][0-9]{6}[0-9]*[1-9]"
_DOUBTFUL_IN_JSON = rf'(?i)"\s*([0-9]{{1,3}}-[0-9]|[+-]?infinity|epoch|[0-9][^"]*{_BELOW_MICROSECONDS})'
"""A text, somewhere within a value, that DuckDB might take for a date or a time that it is not."""

_MOMENT = re.compile(r"\b(?:DATE|TIME|TIMESTAMP(?:_[A-Z]+)?)(?: WITH TIME ZONE)?(?![\w\"])")
"""The types of dates and times, alone or within another type."""
_RENAMED_KEY = re.compile(r"_[0-9]+$")
"""The end of the name that DuckDB gives to a column whose key differs from another one in case only."""

_VALUE_TOO_LARGE = re.compile(r'maximum_object_size\\?" of ([0-9]+) bytes exceeded')
_LINE_TOO_LONG = re.compile(r"Maximum line size of ([0-9]+) bytes exceeded")
"""Parts of messages of DuckDB, which are plain text or JSON."""

_NO_FORMAT = "none: %Y"
"""A format of dates that no text is in. Without one, read_json tries its own."""


def find_csv_reader(
    connection: duckdb.DuckDBPyConnection,
    path: Path,
    form: CsvForm,
    *,
    header: bool,
    sample: int,
    has_long_lines: bool = False,
) -> str:
    """Return the call of `read_csv` that reads a file, in SQL. Raises `duckdb.Error`.

    `sample` is the number of rows that types are found from, or -1 for all. `has_long_lines` says whether rows may be
    longer than DuckDB reads by default; reading them takes more memory. Columns that DuckDB takes for dates are read
    once or twice, whole.
    """
    # By default, DuckDB skips leading lines and comments that do not fit the rest, and so loses rows in silence.
    arguments = (
        f"{quote_literal(str(path))}, delim = {quote_literal(form.separator)}, header = {header}, "
        f"skip = {form.skipped_lines}, sample_size = {sample}, nullstr = ['', 'NA'], comment = '', "
        """quote = '"', escape = '"', null_padding = false, ignore_errors = false"""
    )
    if not has_long_lines:
        try:
            return _settle_dates_of_csv(connection, arguments)
        except duckdb.InvalidInputException as error:
            # A row of many short lines.
            if find_exceeded_line_bytes(error) is None:
                raise
    most_bytes = min(path.stat().st_size, MAX_CSV_LINE_BYTES)
    return _settle_dates_of_csv(connection, f"{arguments}, max_line_size = {most_bytes}")


def find_json_reader(connection: duckdb.DuckDBPyConnection, path: Path, *, sample: int) -> str:
    """Return the call of `read_json` that reads a file, in SQL. Raises `duckdb.Error`.

    `sample` is the number of values that types are found from, or -1 for all. Columns that DuckDB takes for dates, or
    finds some in, are read once, whole.
    """
    # Else many keys, or keys that few objects have, become a single column: a map of all that they hold.
    arguments = f"{quote_literal(str(path))}, sample_size = {sample}, map_inference_threshold = -1"
    try:
        return _settle_dates_of_json(connection, arguments)
    except duckdb.InvalidInputException as error:
        if find_exceeded_value_bytes(error) is None:
            raise
    most_bytes = min(path.stat().st_size, MAX_JSON_VALUE_BYTES)
    return _settle_dates_of_json(connection, f"{arguments}, maximum_object_size = {most_bytes}")


def find_exceeded_value_bytes(error: duckdb.Error) -> int | None:
    """Return how large a value of JSON could be, if the error says that one is larger.

    That is less than `MAX_JSON_VALUE_BYTES` where it came behind the rows that types were found from.
    """
    match = _VALUE_TOO_LARGE.search(str(error))
    return int(match[1]) if match else None


def find_exceeded_line_bytes(error: duckdb.Error) -> int | None:
    """Return how long a row of CSV could be, if the error says that one is longer."""
    match = _LINE_TOO_LONG.search(str(error))
    return int(match[1]) if match else None


def describe_relation(connection: duckdb.DuckDBPyConnection, relation: str) -> list[tuple[str, str]]:
    """Return name and type of each column of a table, a view or a reader's call."""
    described = connection.execute(f"DESCRIBE FROM {relation}").fetchall()
    # The type of a column without any value is written as if it were a name.
    return [(str(name), str(column_type).replace('"NULL"', "NULL")) for name, column_type, *_ in described]


def _settle_dates_of_csv(connection: duckdb.DuckDBPyConnection, arguments: str) -> str:
    reader = f"read_csv({arguments})"
    columns = describe_relation(connection, reader)
    moments = [name for name, column_type in columns if column_type.startswith(("DATE", "TIME"))]
    if not moments:
        return reader
    days = [name for name, column_type in columns if column_type.startswith(("DATE", "TIMESTAMP"))]
    as_text = f"read_csv({arguments}, types = {_all_text(moments)})"
    doubtful = _find_contradicting(connection, as_text, days, _begins_with_a_year)
    imprecise = _find_contradicting(connection, as_text, moments, _is_of_microseconds)
    # These stay text: once the others are text, DuckDB might find the format of their dates.
    texts = [name for name, column_type in columns if column_type == "VARCHAR"]
    if doubtful or imprecise:
        types = _all_text({*doubtful, *imprecise, *texts})
        date_format = ", dateformat = '%Y-%m-%d'" if doubtful else ""
        reader = f"read_csv({arguments}, types = {types}{date_format})"
    if _can_be_read(connection, reader, [name for name in moments if name not in {*doubtful, *imprecise}]):
        return reader
    return f"read_csv({arguments}, types = {_all_text([*moments, *texts])})"


def _settle_dates_of_json(connection: duckdb.DuckDBPyConnection, arguments: str) -> str:
    reader = f"read_json({arguments})"
    columns = describe_relation(connection, reader)
    moments = {name: column_type for name, column_type in columns if _MOMENT.search(column_type)}
    if not moments:
        return reader
    without_moments = _read_json_without_moments(arguments, columns)
    certain = " AND ".join(
        f"coalesce(bool_and({_is_certain_in_json(name, column_type)}), true)" for name, column_type in moments.items()
    )
    row = connection.execute(f"SELECT {certain} FROM {without_moments}").fetchone()  # noqa: S608
    return reader if row is not None and row[0] else without_moments


def _read_json_without_moments(arguments: str, columns: Sequence[tuple[str, str]]) -> str:
    """Return the reader whose dates and times are text.

    Without a format that fits, DuckDB still takes `infinity` for a date, so that the types are given. They are given by
    the keys of the objects, which a column that DuckDB has renamed does not have.
    """
    if any(_RENAMED_KEY.search(name) for name, _ in columns):
        return f"read_json({arguments}, dateformat = '{_NO_FORMAT}', timestampformat = '{_NO_FORMAT}')"
    types = ", ".join(
        f"{quote_literal(name)}: {quote_literal(_MOMENT.sub('VARCHAR', column_type))}" for name, column_type in columns
    )
    return f"read_json({arguments}, columns = {{{types}}})"


def _is_certain_in_json(name: str, column_type: str) -> str:
    column = quote_identifier(name)
    if column_type.startswith(("DATE", "TIMESTAMP")):
        return f"{_begins_with_a_year(column)} AND {_is_of_microseconds(column)}"
    return f"NOT regexp_matches(to_json({column})::VARCHAR, {quote_literal(_DOUBTFUL_IN_JSON)})"


def _begins_with_a_year(column: str) -> str:
    return f"regexp_matches({column}::VARCHAR, {quote_literal(_BEGINS_WITH_A_YEAR)})"


def _is_of_microseconds(column: str) -> str:
    return f"NOT regexp_matches({column}::VARCHAR, {quote_literal(_BELOW_MICROSECONDS)})"


def _find_contradicting(
    connection: duckdb.DuckDBPyConnection, reader: str, names: Collection[str], condition: Callable[[str], str]
) -> list[str]:
    """Return those of the columns, read as text, in which a value does not meet a condition, in SQL."""
    if not names:
        return []
    holds = ", ".join(f"bool_and({condition(quote_identifier(name))})" for name in names)
    row = connection.execute(f"SELECT {holds} FROM {reader}").fetchone()  # noqa: S608
    assert row is not None, "an aggregate without groups has one row"
    return [name for name, does_hold in zip(names, row, strict=True) if does_hold is False]


def _can_be_read(connection: duckdb.DuckDBPyConnection, reader: str, names: Collection[str]) -> bool:
    """Return whether every value of the columns has the type that DuckDB found: it may have met two formats in one."""
    counts = ", ".join(["1", *(f"count({quote_identifier(name)})" for name in names)])
    try:
        connection.execute(f"SELECT {counts} FROM {reader}").fetchall()  # noqa: S608
    except duckdb.ConversionException:
        return False
    return True


def _all_text(names: Collection[str]) -> str:
    return "{" + ", ".join(f"{quote_literal(name)}: 'VARCHAR'" for name in names) + "}"
