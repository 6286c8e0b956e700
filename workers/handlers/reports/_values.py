"""What DuckDB gives, as text and as JSON; what the formats have in common."""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import orjson

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


def name_columns(description: Sequence[Sequence[Any]]) -> list[Column]:
    """Give the columns of a result, from its DB-API description; the second of a name `a` is called `a_2`.

    Names that differ in case alone count as the same, as they do in SQL. A name longer than `LONGEST_NAME`, such as
    that of a long expression without an alias, is cut. U+FFFD stands for U+0000, here as in the task's result.
    """
    given = [_cut(str(row[0]).replace("\0", "\ufffd"), LONGEST_NAME) for row in description]
    taken: set[str] = set()
    reserved = {name.lower() for name in given}
    columns = []
    for name, row in zip(given, description, strict=True):
        unique, count = name, 1
        while unique.lower() in taken or (count > 1 and unique.lower() in reserved):
            count += 1
            unique = f"{name}_{count}"
        taken.add(unique.lower())
        columns.append(Column(unique, _cut(str(row[1]).replace('"NULL"', "NULL"), LONGEST_TYPE)))
    return columns


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


def fits_a_double(value: Decimal) -> bool:
    """Whether a reader that keeps numbers as doubles gives back this one, digit for digit."""
    return value.is_finite() and len(value.as_tuple().digits) <= EXACT_DIGITS


def text_of_float(value: float) -> str:
    """The shortest text that reads back as the same double; `NaN`, `Infinity` and `-Infinity` for what is no number."""
    if math.isfinite(value):
        return repr(value)
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def text_of_date_or_time(value: date | time, separator: str = "T") -> str:
    """ISO 8601; what has a time zone is given in UTC, with a `Z`."""
    if isinstance(value, datetime):
        if value.tzinfo is None:
            return value.isoformat(separator)
        return value.astimezone(UTC).replace(tzinfo=None).isoformat(separator) + "Z"
    return value.isoformat()


def text_of_duration(value: timedelta) -> str:
    """ISO 8601, in days and seconds, such as `P1DT3.5S`; a negative one has a minus before each part."""
    sign = "-" if value < timedelta(0) else ""
    value = abs(value)
    seconds = f"{value.seconds}.{value.microseconds:06d}".rstrip("0").rstrip(".")
    parts = (f"P{sign}{value.days}D" if value.days else "P") + (f"T{sign}{seconds}S" if seconds != "0" else "")
    return parts if parts != "P" else "PT0S"


def text_of_bytes(value: bytes) -> str:
    """Base64 (RFC 4648, section 4)."""
    return base64.b64encode(value).decode("ascii")


def json_of(value: object) -> Any:
    """Give the JSON form of any value: what `orjson` can write, with no number that a reader would round."""
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
    """Write what `json_of` gave. Raises `/problems/invalid-query` for what is nested deeper than 254 levels."""
    try:
        return orjson.dumps(value)
    except orjson.JSONEncodeError as error:
        raise _problems.invalid_query("A value of the report is nested too deeply.") from error


def text_of_nested(value: object) -> str:
    """Lists, structs and maps as the text of their JSON form."""
    return dump_json(json_of(value)).decode()


def text_of_other(value: object) -> str:
    """The text of what is neither number, text nor nested."""
    if isinstance(value, (date, time)):
        return text_of_date_or_time(value)
    if isinstance(value, timedelta):
        return text_of_duration(value)
    if isinstance(value, (bytes, bytearray, memoryview)):
        return text_of_bytes(bytes(value))
    assert isinstance(value, UUID), f"DuckDB gave a {type(value).__name__}"
    return str(value)


def _key_of(key: object) -> str:
    """The keys of a map may be anything; those of JSON are texts."""
    plain = json_of(key)
    return plain if isinstance(plain, str) else orjson.dumps(plain).decode()
