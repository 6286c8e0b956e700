"""Values that DuckDB returns, as text and as JSON: what the formats have in common."""

from __future__ import annotations

import base64
import json
import math
import re
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, NamedTuple
from uuid import UUID

import duckdb
import orjson
from duckdb.sqltypes import DuckDBPyType

from workers.handlers.reports import _problems

LONGEST_NAME = 255
LONGEST_TYPE = 200
EXACT_INTEGER = (1 << 53) - 1
"""The largest integer that every reader of JSON keeps exactly (RFC 7493, 2.2)."""
EXACT_DIGITS = 15
"""A decimal number of so many significant digits survives the way through a double (DBL_DIG)."""


@dataclass(frozen=True)
class Column:
    """One column of the report."""

    name: str
    """Unique among the columns."""
    type: str
    """As DuckDB writes it, cut to `LONGEST_TYPE` characters."""


class ResultColumn(NamedTuple):
    """A column as DuckDB describes it."""

    name: str
    type: DuckDBPyType


def describe_result(connection: duckdb.DuckDBPyConnection) -> list[ResultColumn]:
    """Return the columns of the query that has run."""
    return [ResultColumn(str(name), column_type) for name, column_type, *_ in connection.description or ()]


def name_columns(described: Sequence[ResultColumn]) -> list[Column]:
    """Return the columns of a report; the second of a name `a` is called `a_2`.

    Names that differ in case alone count as the same, as they do in SQL. A name longer than `LONGEST_NAME`, such as
    that of a long expression without an alias, is cut. U+FFFD stands for U+0000, here as in the task's result.
    """
    given = [_cut(column.name.replace("\0", "\ufffd"), LONGEST_NAME) for column in described]
    taken: set[str] = set()
    reserved = {name.lower() for name in given}
    columns = []
    for name, column in zip(given, described, strict=True):
        unique, count = name, 1
        while unique.lower() in taken or (count > 1 and unique.lower() in reserved):
            count += 1
            unique = f"{name}_{count}"
        taken.add(unique.lower())
        columns.append(Column(unique, _cut(str(column.type).replace('"NULL"', "NULL"), LONGEST_TYPE)))
    return columns


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


Converter = Callable[[Any], Any]


@dataclass(frozen=True)
class FarMoment:
    """A date or a timestamp that Python has no type for: before the year 1, behind 9999, or finer than microseconds."""

    date: str
    """As XML Schema 1.1 writes it: with as many digits as the year needs, and the year before 1 as 0000."""
    time: str | None
    """None for a date."""

    def isoformat(self, separator: str = "T") -> str:
        """Return the ISO 8601 form."""
        return self.date if self.time is None else f"{self.date}{separator}{self.time}"


@dataclass(frozen=True)
class ColumnConverter:
    """Converts the values of one column."""

    position: int
    convert: Converter
    only_texts: bool
    """Whether the values that need it come as texts, which is rare in the columns of their type."""

    def convert_batch(self, rows: Sequence[Sequence[Any]]) -> Sequence[Sequence[Any]]:
        """Return the rows with the values of the column converted: the same rows if there is nothing to convert."""
        position, convert = self.position, self.convert
        if self.only_texts and not any(type(row[position]) is str for row in rows):
            return rows
        return [(*row[:position], convert(row[position]), *row[position + 1 :]) for row in rows]


def find_converters(described: Sequence[ResultColumn]) -> list[ColumnConverter]:
    """Return the converters of the columns of which DuckDB returns values in a form that depends on their type.

    These are FLOAT, of which Python would show digits that it does not have; JSON, which comes as its source text; and
    dates, times and timestamps that Python has no type for, which come as text: those of nanoseconds, as
    `cast_nanoseconds` has them read.
    """
    found = ((position, _find_converter(column.type)) for position, column in enumerate(described))
    return [
        ColumnConverter(position, convert, only_texts=convert is _parse_far_moment)
        for position, convert in found
        if convert is not None
    ]


def _find_converter(column_type: DuckDBPyType) -> Converter | None:
    if str(column_type) == "JSON":
        return _parse_json
    match column_type.id:
        case "float":
            return shortest_double
        case "date" | "timestamp" | "timestamp_s" | "timestamp_ms" | "timestamp with time zone":
            return _parse_far_moment
        case "timestamp_ns" | "timestamptz_ns" | "time_ns":
            return _parse_nanoseconds
        case "list" | "array":
            return _each_item(_find_converter(_children_of(column_type)[0][1]))
        case "struct":
            return _each_field({name: _find_converter(child) for name, child in _children_of(column_type)})
        case "map":
            (_, key_type), (_, value_type) = _children_of(column_type)
            # A key of type JSON stays its source text: it may be a list, which Python cannot hash.
            convert_key = None if str(key_type) == "JSON" else _find_converter(key_type)
            return _each_entry(convert_key, _find_converter(value_type))
        case _:
            return None


def _children_of(column_type: DuckDBPyType) -> list[tuple[str, DuckDBPyType]]:
    return [(name, child) for name, child in column_type.children if isinstance(child, DuckDBPyType)]


def _each_item(convert: Converter | None) -> Converter | None:
    if convert is None:
        return None
    return lambda values: None if values is None else [convert(value) for value in values]


def _each_field(converters: dict[str, Converter | None]) -> Converter | None:
    found = {name: convert for name, convert in converters.items() if convert is not None}
    if not found:
        return None

    def convert_fields(fields: dict[str, Any] | None) -> dict[str, Any] | None:
        if fields is None:
            return None
        return {name: found[name](value) if name in found else value for name, value in fields.items()}

    return convert_fields


def _each_entry(convert_key: Converter | None, convert_value: Converter | None) -> Converter | None:
    if convert_key is None and convert_value is None:
        return None
    key, value = convert_key or _unchanged, convert_value or _unchanged

    def convert_entries(entries: dict[Any, Any] | None) -> dict[Any, Any] | None:
        if entries is None:
            return None
        if convert_key is not None and not entries.keys() - {"key", "value"} and isinstance(entries.get("key"), list):
            # Of a map whose keys are nested, which Python cannot hash, DuckDB returns the keys and the values apart.
            return {"key": [key(item) for item in entries["key"]], "value": [value(item) for item in entries["value"]]}
        return {key(entry_key): value(entry_value) for entry_key, entry_value in entries.items()}

    return convert_entries


def _unchanged(value: Any) -> Any:
    return value


def shortest_double(value: float | None) -> float | None:
    """Return the double with the shortest text of those that are the same FLOAT when they are read as one.

    The text has 9 significant digits at most (FLT_DECIMAL_DIG), and 6 (FLT_DIG) are enough for what was written with
    6, unless the number is subnormal.
    """
    if value is None or value == 0 or not math.isfinite(value):
        return value
    single = _SINGLE.pack(value)
    for digits in range(6 if abs(value) >= _SMALLEST_NORMAL_SINGLE else 1, 9):
        shorter = float(f"{value:.{digits}g}")
        try:
            if _SINGLE.pack(shorter) == single:
                return shorter
        except OverflowError:
            # Rounded up, the largest numbers are none any more.
            continue
    return float(f"{value:.9g}")


_SINGLE = struct.Struct("f")
_SMALLEST_NORMAL_SINGLE = 2.0**-126


def _parse_json(value: str | None) -> Any:
    if value is None:
        return None
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value


def _parse_far_moment(value: Any) -> Any:
    """Return what DuckDB's text says, such as `12000-01-31`, `0044-03-15 (BC)` or `12000-01-31 10:00:00.5+00`."""
    if not isinstance(value, str):
        return value
    match = _FAR_MOMENT.fullmatch(value)
    if match is None:
        return value
    year = int(match["year"])
    if match["before_christ"]:
        year = 1 - year
    day = f"{'-' if year < 0 else ''}{abs(year):04d}-{match['month_and_day']}"
    if match["time"] is None:
        return FarMoment(day, None)
    fraction = f".{match['fraction']:0<6}" if match["fraction"] else ""
    return FarMoment(day, f"{match['time']}{fraction}{'Z' if match['utc'] else ''}")


_FAR_MOMENT = re.compile(
    r"(?P<year>[0-9]+)-(?P<month_and_day>[0-9]{2}-[0-9]{2})(?P<before_christ> \(BC\))?"
    r"(?: (?P<time>[0-9]{2}:[0-9]{2}:[0-9]{2})(?:\.(?P<fraction>[0-9]+))?(?P<utc>\+00)?)?"
)


_NANOSECONDS_TYPE = re.compile(r"\b(?:TIMESTAMP(?:TZ)?_NS|TIME_NS)\b")


def cast_nanoseconds(column_type: DuckDBPyType) -> str | None:
    """Return the type, in SQL, that a column is cast to so that Python gets its nanoseconds; None if it has none.

    DuckDB returns them in Python's types, which end at microseconds, without an error.
    """
    text = str(column_type)
    return _NANOSECONDS_TYPE.sub("VARCHAR", text) if _NANOSECONDS_TYPE.search(text) else None


def _parse_nanoseconds(value: str | None) -> Any:
    """Return the date or time that DuckDB's text says, in Python's type if it has no digits beyond microseconds."""
    if value is None:
        return None
    moment = _parse_far_moment(value)
    fraction = value.partition(".")[2]
    if not isinstance(moment, FarMoment):
        # A time of day, or `infinity`.
        return value.rstrip("0") if fraction else value
    if len(fraction.removesuffix("+00").rstrip("0")) > _MICROSECOND_DIGITS:
        return moment
    return datetime.fromisoformat(value)


_MICROSECOND_DIGITS = 6


def fits_a_double(value: Decimal) -> bool:
    """Return whether a reader that keeps numbers as doubles keeps every digit of this one."""
    return value.is_finite() and len(value.as_tuple().digits) <= EXACT_DIGITS


def text_of_float(value: float) -> str:
    """Return the shortest text that reads back as the same double, or `NaN`, `Infinity` or `-Infinity`."""
    if math.isfinite(value):
        return repr(value)
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def text_of_date_or_time(value: date | time, separator: str = "T") -> str:
    """Return the ISO 8601 form; what has a time zone is in UTC, with a `Z`."""
    if isinstance(value, datetime):
        if value.tzinfo is None:
            return value.isoformat(separator)
        return value.astimezone(UTC).replace(tzinfo=None).isoformat(separator) + "Z"
    return value.isoformat()


def text_of_duration(value: timedelta) -> str:
    """Return the ISO 8601 form, in days and seconds, such as `P1DT3.5S`; a negative one has a minus before each part."""
    sign = "-" if value < timedelta(0) else ""
    value = abs(value)
    seconds = f"{value.seconds}.{value.microseconds:06d}".rstrip("0").rstrip(".")
    parts = (f"P{sign}{value.days}D" if value.days else "P") + (f"T{sign}{seconds}S" if seconds != "0" else "")
    return parts if parts != "P" else "PT0S"


def text_of_bytes(value: bytes) -> str:
    """Return the Base64 form (RFC 4648, section 4)."""
    return base64.b64encode(value).decode("ascii")


def json_of(value: object) -> Any:
    """Return the JSON form of any value: what `orjson` can write, with no number that a reader would round."""
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, int):
        return value if -EXACT_INTEGER <= value <= EXACT_INTEGER else str(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else text_of_float(value)
    if isinstance(value, Decimal):
        return float(value) if fits_a_double(value) else f"{value:f}"
    if isinstance(value, (list, tuple)):
        return [json_of(item) for item in value]
    if isinstance(value, dict):
        return {_key_of(key): json_of(item) for key, item in value.items()}
    return text_of_other(value)


def dump_json(value: object) -> bytes:
    """Return what `json_of` returned as bytes. Raises `/problems/invalid-query` for more than 254 levels of nesting."""
    try:
        return orjson.dumps(value)
    except orjson.JSONEncodeError as error:
        raise _problems.invalid_query("A value of the report is nested too deeply.") from error


def text_of_nested(value: object) -> str:
    """Return the text of the JSON form of a list, struct or map."""
    return dump_json(json_of(value)).decode()


def text_of_other(value: object) -> str:
    """Return the text of a value that is neither number, text nor nested."""
    if isinstance(value, (date, time)):
        return text_of_date_or_time(value)
    if isinstance(value, FarMoment):
        return value.isoformat()
    if isinstance(value, timedelta):
        return text_of_duration(value)
    if isinstance(value, (bytes, bytearray, memoryview)):
        return text_of_bytes(bytes(value))
    assert isinstance(value, UUID), f"DuckDB gave a {type(value).__name__}"
    return str(value)


def _key_of(key: object) -> str:
    """Return a text for the key of a map, which may be any value; the keys of JSON are texts."""
    plain = json_of(key)
    return plain if isinstance(plain, str) else orjson.dumps(plain).decode()
