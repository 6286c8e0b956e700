"""Reads query strings. Unknown and repeated names are refused."""

from __future__ import annotations

from typing import Annotated, Final
from urllib.parse import parse_qsl

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

from api.http.problems import invalid

MAX_WAIT_SECONDS: Final = 60
MAX_NUMBER_DIGITS: Final = 9
"""Longer numbers are refused before they are parsed, so that parsing them costs nothing."""


class StrictQuery(BaseModel):
    """The query parameters of a route. Unknown names are refused."""

    model_config = ConfigDict(extra="forbid")


class NoQuery(StrictQuery):
    """The query of a route that takes no parameters."""


class WaitForAllQuery(StrictQuery):
    """How long a request waits for the end of a batch or of a workflow. `read_wait` reads it."""

    wait: Annotated[
        int | None,
        Field(ge=1, le=MAX_WAIT_SECONDS, description="How many seconds to wait for all of its tasks to be done."),
    ] = None


def require_digits(value: object) -> object:
    """Return a value unchanged. Raises an error of pydantic for a text that is not a short whole number."""
    if isinstance(value, str) and not _is_short_number(value):
        raise PydanticCustomError("int_parsing", "Must be a whole number, in digits")
    return value


PageLimit = Annotated[
    int, BeforeValidator(require_digits), Field(ge=1, le=200, description="How many items a page has at most.")
]


class PageQuery(StrictQuery):
    """The page of a list. Without `limit`, NDJSON and CSV have the whole list (see `api.http.list_formats`)."""

    # The schema has no default, since generated clients send defaults.
    limit: PageLimit | None = None
    cursor: Annotated[str | None, Field(description="The `next_cursor` of the page before.")] = None


def read_wait(query_string: bytes, prefer: str | None) -> tuple[int, bool]:
    """Return how many seconds to wait (0 means not at all), and whether `Prefer` asked for it (RFC 7240).

    Raises the problem `validation` for another parameter than `wait`, or a value outside of 1 to `MAX_WAIT_SECONDS`. A
    larger value in `Prefer` is lowered to that maximum.
    """
    if query_string:
        value = _read_only_parameter(query_string, "wait")
        if value is not None:
            if not (_is_short_number(value) and 1 <= int(value) <= MAX_WAIT_SECONDS):
                raise invalid("query:wait", "out_of_range", f"Must be a whole number from 1 to {MAX_WAIT_SECONDS}")
            return int(value), False
    if prefer is not None:
        for preference in prefer.split(","):
            name, _, value = preference.split(";")[0].partition("=")
            value = value.strip().strip('"')
            if name.strip().lower() == "wait" and value.isascii() and value.isdigit():
                wait = min(int(value[:MAX_NUMBER_DIGITS]), MAX_WAIT_SECONDS)
                return wait, wait > 0
    return 0, False


def read_validate_only(query_string: bytes) -> bool:
    """Return whether a submission is only to be validated. Raises the problem `validation` for any other parameter."""
    value = _read_only_parameter(query_string, "validate_only") if query_string else None
    if value not in {"true", "false", None}:
        raise invalid("query:validate_only", "bool_parsing", "Must be true or false")
    return value == "true"


def _read_only_parameter(query_string: bytes, known: str) -> str | None:
    """Return the value of the only parameter that a query may have, or None if it is absent."""
    pairs = parse_qsl(query_string.decode("latin-1"), keep_blank_values=True)
    for name, _ in pairs:
        if name != known:
            raise invalid(f"query:{name}", "extra_forbidden", "Unknown query parameter")
    if len(pairs) > 1:
        raise invalid(f"query:{known}", "repeated", "Must be given once")
    return pairs[0][1] if pairs else None


def _is_short_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= MAX_NUMBER_DIGITS
