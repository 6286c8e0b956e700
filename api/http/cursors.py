"""Writes and reads the cursors of lists: the last id of a page, signed so that a client cannot make up its own."""

from __future__ import annotations

from typing import Final
from uuid import UUID

from api.http.problems import invalid
from api.http.signed_values import read_signed, sign
from shared.settings import Settings

_PURPOSE: Final = "cursor"
_TAG_BYTES: Final = 8
_ID_BYTES: Final = 16


def write_cursor(settings: Settings, last_id: UUID) -> str:
    """Return the cursor of the page after an id."""
    return sign(settings, _PURPOSE, last_id.bytes, _TAG_BYTES)


def read_cursor(settings: Settings, cursor: str) -> UUID:
    """Return the id that a cursor contains. Raises the problem `validation` at `query:cursor` for an invalid one."""
    content = read_signed(settings, _PURPOSE, cursor, _TAG_BYTES)
    if content is None or len(content) != _ID_BYTES:
        raise invalid("query:cursor", "invalid_cursor", "Must be the next_cursor of an earlier page, unchanged")
    return UUID(bytes=content)
