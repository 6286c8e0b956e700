"""What DuckDB's errors say, without what they should not."""

from __future__ import annotations

import json
from dataclasses import dataclass

import duckdb

LONGEST_MESSAGE = 1_000
ADVICE_BEGINS = (
    "\nThe search space used was:",
    "\n\nColumn ",
    "\nPossible solutions:",
    "\nPossible fixes:",
    "\nTry increasing ",
    "\n\n  file =",
    "\n  file =",
    "\n\nLINE ",
)
"""Where a message turns to advice that the submitter of a query cannot follow, such as options of DuckDB's reader."""


@dataclass(frozen=True)
class Explanation:
    """One error of DuckDB's."""

    message: str
    """For people: a few lines, without the engine's advice and without the lines of data that it quotes."""
    whole: str
    """All that DuckDB said, for finding out what it is about."""
    position: int | None
    """Where in the query, in bytes of its UTF-8 form, from 0."""


def explain(error: duckdb.Error) -> Explanation:
    """Read an error, which is `Kind Error: {json}` under the setting `errors_as_json`, and else plain text."""
    text = str(error)
    _, brace, rest = text.partition("{")
    try:
        fields = json.loads(brace + rest)
        whole, position = fields["exception_message"], fields.get("position")
    except (ValueError, KeyError, TypeError):
        whole, position = text, None
    message = whole
    for words in ADVICE_BEGINS:
        message = message.split(words, 1)[0]
    lines = [line for line in message.splitlines() if line.strip() and not line.startswith("Original Line:")]
    message = "\n".join(lines)
    if len(message) > LONGEST_MESSAGE:
        message = message[:LONGEST_MESSAGE] + "…"
    return Explanation(message, whole, int(position) if position is not None else None)
