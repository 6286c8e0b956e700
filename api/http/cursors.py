"""Writes and reads the cursors of lists: the last id of a page, signed so that a client cannot make up its own."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from typing import Final
from uuid import UUID

from api.http.problems import invalid
from shared.settings import Settings

_TAG_BYTES: Final = 8


def write_cursor(settings: Settings, last_id: UUID) -> str:
    """Return the cursor of the page after an id."""
    return base64.urlsafe_b64encode(last_id.bytes + _tag(settings, last_id.bytes)).decode()


def read_cursor(settings: Settings, cursor: str) -> UUID:
    """Return the id that a cursor contains. Raises the problem `validation` at `query:cursor` for an invalid one."""
    try:
        content = base64.urlsafe_b64decode(cursor.encode("ascii"))
    except (binascii.Error, ValueError):
        content = b""
    body, tag = content[:16], content[16:]
    if (
        len(content) != 16 + _TAG_BYTES
        or not hmac.compare_digest(tag, _tag(settings, body))
        or cursor != write_cursor(settings, UUID(bytes=body))
    ):
        raise invalid("query:cursor", "invalid_cursor", "Must be the next_cursor of an earlier page, unchanged")
    return UUID(bytes=body)


def _tag(settings: Settings, content: bytes) -> bytes:
    key = settings.secret_key.get_secret_value().encode()
    return hmac.digest(key, b"cursor" + content, hashlib.sha256)[:_TAG_BYTES]
