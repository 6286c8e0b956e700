"""The storage port: what Taskmill needs of an object store. Workers call it directly, the API from threads.

It has two implementations: a folder (`shared/storage/local_objects.py`) and a bucket (`shared/storage/s3_objects.py`);
`shared/storage/open_store.py` chooses one of them. An object is visible whole or not at all, and never changes. Every
method may raise `StorageUnavailable`; methods that write may also raise `StorageFull`, and methods that read
`ObjectMissing`.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Final, NamedTuple, Protocol, Self

COPY_BYTES: Final = 1 << 20
"""How much is read at a time where a file is copied."""

_KEY: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*(?:/[A-Za-z0-9_][A-Za-z0-9._-]*)*")
_MADE_KEY: Final = re.compile(r"[0-9a-f]{2}/[0-9a-f]{36}")
_LONGEST_KEY: Final = 512


class ObjectWriter(Protocol):
    """An object that is being written. Nothing of it is visible before `commit`, and the end of a `with` block aborts it
    unless it was committed. Only one thread at a time may use it."""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Append bytes."""

    def commit(self) -> None:
        """Complete the object: it becomes visible, and survives a power failure."""

    def abort(self) -> None:
        """Delete what was written. May be called again, and after a `commit` that failed; after one that succeeded it
        does nothing."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class ObjectReader(Protocol):
    """An open object. Only one thread at a time may use it."""

    def read(self, size: int = -1) -> bytes:
        """Return at most `size` bytes, or all that are left if it is negative. Empty only at the end."""

    def close(self) -> None: ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class StoredObject(NamedTuple):
    """An object in a listing."""

    key: str
    modified_at: datetime


class ObjectStore(Protocol):
    """Files by key. Many threads and processes may use one at once; a forked child must open its own."""

    def put_file(self, key: str, path: Path) -> None:
        """Store a regular file, whole and durably. It may be linked instead of copied, so do not write to it afterwards."""

    def open_writer(self, key: str) -> ObjectWriter:
        """Return a writer for a new object, which is written piece by piece with bounded memory."""

    def open_reader(self, key: str, start: int = 0, length: int | None = None) -> ObjectReader:
        """Return a reader of `length` bytes from byte `start` on, or of all up to the end. Beyond the end it is empty."""

    def local_path(self, key: str) -> Path | None:
        """Return the path of the object's own file, which must only be read, or None if there is none: then `fetch` it."""

    def fetch(self, key: str, path: Path) -> None:
        """Copy an object into a new file, which is removed if that fails. Raises `FileExistsError` if the file exists."""

    def size(self, key: str) -> int:
        """Return an object's size in bytes."""

    def delete(self, keys: Sequence[str]) -> None:
        """Delete objects. A key without an object is no error."""

    def list_objects(self, older_than: datetime) -> Iterator[StoredObject]:
        """Yield every object whose key has the form of `new_object_key` and that was stored before a time, in any order.

        Anything else in the folder or the bucket is not Taskmill's, and must not be listed: what is listed here and is in
        no row of the database is deleted.
        """

    def abort_abandoned(self, older_than: datetime) -> int:
        """Delete what was begun before a time and neither committed nor aborted; return how many there were."""

    def check(self) -> None:
        """Raise `StorageUnavailable`, with the reason, unless objects can be read and written now."""


def new_object_key() -> str:
    """Return a key of 152 random bits, spread over 256 folders. It contains nothing that a caller sent."""
    return f"{secrets.token_hex(1)}/{secrets.token_hex(18)}"


def list_key_folders() -> list[str]:
    """Return the folders of all keys of `new_object_key`, in ascending order from a random one on, and around.

    A walk through a large store may run out of time. As each walk begins elsewhere, all folders are visited in the end.
    """
    first = secrets.randbelow(256)
    return [f"{(first + number) % 256:02x}" for number in range(256)]


def is_made_key(key: str) -> bool:
    """Return whether a key has the form that `new_object_key` returns, which no other program's file has by chance."""
    return _MADE_KEY.fullmatch(key) is not None


def check_key(key: str) -> str:
    """Return the key. Raises `ValueError` unless it is a relative path of which no segment begins with a dot."""
    if len(key) > _LONGEST_KEY or not _KEY.fullmatch(key):
        raise ValueError(f"not an object key: {key[:80]!r}")
    return key
