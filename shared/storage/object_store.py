"""Where files lie: the storage port, which workers use directly and the API from threads.

Its two forms are a folder of this machine (`shared/storage/local_objects.py`) and a bucket
(`shared/storage/s3_objects.py`). An object is seen whole or not at all, and is never changed once it is there. Everything
here may raise `StorageUnavailable`, whatever writes also `StorageFull`, and whatever reads also `ObjectMissing`.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Final, NamedTuple, Protocol, Self, cast
from urllib.parse import parse_qsl, unquote, urlsplit

from shared.errors import ConfigurationError

COPY_BYTES: Final = 1 << 20
"""How much is moved at a time where one side must be copied to the other."""

_KEY: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*(?:/[A-Za-z0-9_][A-Za-z0-9._-]*)*")
_MADE_KEY: Final = re.compile(r"[0-9a-f]{2}/[0-9a-f]{36}")
_LONGEST_KEY: Final = 512
_S3_OPTIONS: Final = frozenset({"endpoint_url", "region", "addressing_style"})


class ObjectWriter(Protocol):
    """An object in the making, of which nothing is seen before `commit`. At the end of a `with` block it is aborted
    unless it was committed. One thread at a time may use it."""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Append bytes."""

    def commit(self) -> None:
        """Make the object visible and durable: it is there after a power cut."""

    def abort(self) -> None:
        """Leave nothing behind; again and again, and after a failed `commit`. After one that succeeded, do nothing."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class ObjectReader(Protocol):
    """An open object. One thread at a time may use it."""

    def read(self, size: int = -1) -> bytes:
        """Give up to `size` bytes, all that is left if negative; nothing only at the end."""

    def close(self) -> None: ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class StoredObject(NamedTuple):
    """An object as a listing shows it."""

    key: str
    modified_at: datetime


class ObjectStore(Protocol):
    """Files by key. Safe for use by many threads and processes; a forked child opens its own."""

    def put_file(self, key: str, path: Path) -> None:
        """Store a regular file, whole and durable. It may be linked and not copied: it must not be written to after."""

    def open_writer(self, key: str) -> ObjectWriter:
        """Begin an object, to be written piece by piece with bounded memory."""

    def open_reader(self, key: str, start: int = 0, length: int | None = None) -> ObjectReader:
        """Open an object at a byte, to be read for `length` bytes or to its end; past the end there is nothing."""

    def local_path(self, key: str) -> Path | None:
        """Give the object's own file, to be read only, or None where there is none: then `fetch` it."""

    def fetch(self, key: str, path: Path) -> None:
        """Copy an object into a new file, which is removed if that fails; an existing one raises `FileExistsError`."""

    def size(self, key: str) -> int:
        """Give an object's size in bytes."""

    def delete(self, keys: Sequence[str]) -> None:
        """Delete objects; those that are absent already are fine."""

    def list_objects(self, older_than: datetime) -> Iterator[StoredObject]:
        """Give every object with a key of `new_object_key` that was stored before that time, in no order.

        What else lies in the folder or the bucket is not Taskmill's: what is listed here and unknown is deleted.
        """

    def abort_abandoned(self, older_than: datetime) -> int:
        """Remove what was begun before that time and neither committed nor aborted; give how many there were."""

    def check(self) -> None:
        """Raise `StorageUnavailable`, saying why, unless objects can be read and written now."""


def new_object_key() -> str:
    """Make a key of 150 random bits, spread over 256 folders. Nothing that a caller said goes into it."""
    return f"{secrets.token_hex(1)}/{secrets.token_hex(18)}"


def list_key_folders() -> list[str]:
    """List the folders that keys of `new_object_key` lie in, from any of them on and around.

    Whoever walks a store that is too large for its time begins elsewhere each time, and sees all of it in the end.
    """
    first = secrets.randbelow(256)
    return [f"{(first + number) % 256:02x}" for number in range(256)]


def is_made_key(key: str) -> bool:
    """Whether a key has the form that `new_object_key` gives, which somebody else's file has by no accident."""
    return _MADE_KEY.fullmatch(key) is not None


def check_key(key: str) -> str:
    """Give the key back. Raises `ValueError` unless it is a relative path whose segments do not begin with a dot."""
    if len(key) > _LONGEST_KEY or not _KEY.fullmatch(key):
        raise ValueError(f"not an object key: {key[:80]!r}")
    return key


def open_object_store(storage_url: str) -> ObjectStore:
    """Open the storage that the URL names; a folder is made when absent, a bucket is not looked at.

    `file:///absolute/path`, or `s3://bucket/prefix?endpoint_url=…&region=…&addressing_style=path|virtual|auto` with
    credentials as boto3 finds them. Raises `ConfigurationError`, which says what is wrong with any other.
    """
    parts = urlsplit(storage_url)
    if parts.scheme == "file":
        return _open_folder(unquote(parts.path), parts.netloc)
    if parts.scheme == "s3":
        return _open_bucket(storage_url)
    raise ConfigurationError(
        f"TASKMILL_STORAGE_URL begins with {parts.scheme or 'no scheme'}: write file:///srv/taskmill for a folder of this "
        "machine, or s3://bucket/prefix?endpoint_url=https://…&region=… for a bucket"
    )


def _open_folder(path: str, host: str) -> ObjectStore:
    from shared.storage.local_objects import LocalObjects

    if host not in ("", "localhost") or not path.startswith("/") or "\0" in path:
        raise ConfigurationError(
            "TASKMILL_STORAGE_URL must name an absolute path of this machine, with three slashes: file:///srv/taskmill"
        )
    if path.strip("/") == "":
        raise ConfigurationError(
            "TASKMILL_STORAGE_URL names the root of the file system: give files a folder of their own"
        )
    return LocalObjects(Path(path))


def _open_bucket(storage_url: str) -> ObjectStore:
    from shared.storage.s3_objects import ADDRESSING_STYLES, AddressingStyle, S3Objects

    parts = urlsplit(storage_url)
    if parts.username is not None or parts.password is not None:
        raise ConfigurationError(
            "TASKMILL_STORAGE_URL holds credentials: put them where boto3 finds them, such as the variables "
            "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        )
    if not parts.netloc:
        raise ConfigurationError("TASKMILL_STORAGE_URL names no bucket: write s3://bucket/prefix")
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    if unknown := sorted(options.keys() - _S3_OPTIONS):
        raise ConfigurationError(
            f"TASKMILL_STORAGE_URL has the unknown option {unknown[0]}: known are {', '.join(sorted(_S3_OPTIONS))}"
        )
    endpoint_url = options.get("endpoint_url") or None
    if endpoint_url and urlsplit(endpoint_url).scheme not in ("http", "https"):
        raise ConfigurationError("The endpoint_url in TASKMILL_STORAGE_URL must begin with https:// or http://")
    # Servers that one runs oneself seldom have a host name for each bucket.
    style = options.get("addressing_style") or ("path" if endpoint_url else "auto")
    if style not in ADDRESSING_STYLES:
        raise ConfigurationError("The addressing_style in TASKMILL_STORAGE_URL must be path, virtual or auto")
    prefix = unquote(parts.path).strip("/")
    if prefix and not _KEY.fullmatch(prefix):
        raise ConfigurationError(
            "The prefix in TASKMILL_STORAGE_URL may have letters, digits, `.`, `_`, `-` and `/`, no segment beginning with `.`"
        )
    return S3Objects(
        bucket=parts.netloc,
        prefix=prefix,
        endpoint_url=endpoint_url,
        region=options.get("region") or None,
        addressing_style=cast(AddressingStyle, style),
    )
