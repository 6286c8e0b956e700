"""Times as clients write them (RFC 3339)."""

from __future__ import annotations

import re
from contextlib import suppress
from datetime import UTC, datetime
from typing import Annotated, Final

from pydantic import AwareDatetime, BeforeValidator
from pydantic_core import PydanticCustomError

_RFC3339: Final = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d{1,9})?([Zz]|[+-]\d\d:[0-5]\d)", re.ASCII)


def _read_timestamp(value: object) -> object:
    """Parse a timestamp of RFC 3339 (section 5.6). Other forms that pydantic would accept, such as a number, are refused.

    Returns it in UTC, because Postgres accepts no offset of 16 hours or more. A time that in UTC is outside of the years 1
    to 9999 keeps its offset. Values that are not strings are returned unchanged.
    """
    if not isinstance(value, str):
        return value
    try:
        if _RFC3339.fullmatch(value):
            moment = datetime.fromisoformat(value.upper())
            with suppress(OverflowError):
                moment = moment.astimezone(UTC)
            return moment
    except ValueError:
        pass
    raise PydanticCustomError("timestamp", "Must be a timestamp of RFC 3339, such as 2030-01-31T09:00:00Z.")


Timestamp = Annotated[AwareDatetime, BeforeValidator(_read_timestamp)]
"""A time with its offset from UTC, written in the form of RFC 3339."""
