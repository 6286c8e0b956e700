"""The Redis channel of wake-ups: messages with the ids of tasks that have changed, for requests that wait for them.

A lost message only makes such a request slower, because requests also poll the database.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final
from uuid import UUID

WAKEUP_CHANNEL: Final = "taskmill:changed"
_ID_BYTES: Final = 16


def encode_task_ids(ids: Iterable[UUID]) -> bytes:
    """Return the message for these tasks: their ids, 16 bytes each."""
    return b"".join(task_id.bytes for task_id in ids)


def decode_task_ids(message: bytes) -> Iterator[UUID]:
    """Yield the ids in a message. Bytes after the last whole id are ignored."""
    for start in range(0, len(message) - _ID_BYTES + 1, _ID_BYTES):
        yield UUID(bytes=message[start : start + _ID_BYTES])
