"""Turns errors of DuckDB into messages for callers.

A message of DuckDB may quote a value or a whole line of the data, and give advice that only a program that calls DuckDB can
follow. The messages that are returned here quote only the query, which the caller has written.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

import duckdb

from workers.formats.duckdb_sandbox import SPILL_FOLDER
from workers.formats.problems import engine_failed, out_of_memory, storage_full
from workers.outcomes import Failed

MAX_DUCKDB_MESSAGE_CHARACTERS = 1_000
_ADVICE_BEGINS = (
    "\nThe search space used was:",
    "\n\nColumn ",
    "\nPossible solutions:",
    "\nPossible fixes:",
    "\nTry increasing ",
    "\n\n  file =",
    "\n  file =",
    "\n\nLINE ",
    "\nUse ",
    "\nYou can ",
    ". You can ",
    " Try auto-detecting",
)
"""Where a message turns to advice about DuckDB's own options."""

_MESSAGES_ABOUT_VALUES = (
    "Could not parse string",
    "Invalid type specifier",
    "Map keys must be unique",
    "Map keys can not be NULL",
    "More than one row returned by a subquery",
    "Overflow in ",
)
"""The beginnings of messages whose first line quotes values only in quotation marks or parentheses."""

_QUOTED = re.compile(r'"(?:[^"]|"")*"|\'(?:[^\']|\'\')*\'')
_NUMBERS = re.compile(r"(?<![\w.])[+-]?[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?(?![\w.])")
_TARGET_TYPE = re.compile(
    r"""(?:\bto(?: type)?|destination type|format for) ['"]?([A-Z][A-Z0-9_]*(?:\([0-9, ]+\))?)['"]?"""
)

_SQL_TYPES = {
    "INT8": "TINYINT",
    "INT16": "SMALLINT",
    "INT32": "INTEGER",
    "INT64": "BIGINT",
    "INT128": "HUGEINT",
    "UINT8": "UTINYINT",
    "UINT16": "USMALLINT",
    "UINT32": "UINTEGER",
    "UINT64": "UBIGINT",
    "UINT128": "UHUGEINT",
}
"""Names that SQL has for types which DuckDB's messages name otherwise."""


@dataclass(frozen=True)
class Explanation:
    """One error of DuckDB."""

    message: str
    """A few lines for people, without DuckDB's advice and without any data."""
    whole: str
    """The complete message of DuckDB, by which the cause can be recognised."""
    position: int | None
    """Where in the query, in bytes of its UTF-8 form, from 0."""


def explain(error: duckdb.Error, query: str = "") -> Explanation:
    """Return the message and the position of an error of DuckDB, whose text may be JSON (the setting `errors_as_json`).

    `query` was written by the reader of the message, so it may be quoted.
    """
    text = str(error)
    _, brace, rest = text.partition("{")
    try:
        fields = json.loads(brace + rest)
        whole, position = fields["exception_message"], fields.get("position")
    except (ValueError, KeyError, TypeError):
        whole, position = text, None
    message = _describe(error, whole, query)
    if len(message) > MAX_DUCKDB_MESSAGE_CHARACTERS:
        message = message[:MAX_DUCKDB_MESSAGE_CHARACTERS] + "…"
    return Explanation(message, whole, int(position) if position is not None else None)


def find_resource_failure(error: duckdb.Error) -> Failed | None:
    """Return the `Failed` of work that lacked memory, temporary storage or room on the disk, or None.

    DuckDB reports that its `max_temp_directory_size` is reached as an error of memory: what does not fit into either is
    too much for one task.
    """
    message = str(error)
    if "No space left on device" in message:
        return storage_full()
    if isinstance(error, duckdb.OutOfMemoryException) or "bad_alloc" in message:
        return out_of_memory()
    if isinstance(error, duckdb.IOException) and f"{SPILL_FOLDER}/" in message:
        return engine_failed()
    return None


def is_spill_limit_reached(error: duckdb.Error) -> bool:
    """Return whether DuckDB has written as much temporary data as `max_temp_directory_size` allows."""
    return isinstance(error, duckdb.OutOfMemoryException) and "max_temp_directory_size" in str(error)


def _describe(error: duckdb.Error, whole: str, query: str) -> str:
    if isinstance(error, duckdb.ConversionException):
        return _describe_conversion(whole)
    message = whole
    for words in _ADVICE_BEGINS:
        message = message.split(words, 1)[0]
    if isinstance(error, (duckdb.OutOfRangeException, duckdb.InvalidInputException)):
        return _describe_failed_value(message, query)
    return "\n".join(line for line in message.splitlines() if line.strip())


def _describe_conversion(whole: str) -> str:
    """Return a sentence that names the type alone: such a message consists of the value that cannot be converted."""
    found = _TARGET_TYPE.findall(whole)
    target = f"to {_SQL_TYPES.get(found[-1], found[-1])}" if found else "to the type that the query needs"
    return f"A value cannot be converted {target}. TRY_CAST gives NULL for such values."


def _describe_failed_value(message: str, query: str) -> str:
    """Return what a function of the query could not do, with `…` for each value that the query does not have itself."""
    if message in query:
        # The text of `error('…')`.
        return message
    if message.startswith("Malformed JSON"):
        return "A text that is not valid JSON was read as JSON. Cast a column of type VARIANT first, as in m::JSON."
    first_line = message.split("\n", 1)[0]
    if not first_line.startswith(_MESSAGES_ABOUT_VALUES):
        return "A function of the query cannot be applied to a value of the data."

    def mask_text(match: re.Match[str]) -> str:
        quoted = match[0][1:-1]
        return match[0] if quoted and quoted in query else "…"

    def mask_number(match: re.Match[str]) -> str:
        return match[0] if match[0] in query else "…"

    return _NUMBERS.sub(mask_number, _QUOTED.sub(mask_text, first_line))
