"""Objects as files in a local folder, or in one on a network file system with POSIX semantics.

An object is written to the folder `.incoming` on the same file system, and renamed to its key when it is whole. To make
that durable, the file is synced before the rename, and every changed folder after it.
"""

from __future__ import annotations

import errno
import os
import secrets
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from shared.errors import ConfigurationError, ObjectMissing, StorageFull, StorageUnavailable, is_no_room
from shared.storage.object_store import (
    COPY_BYTES,
    ObjectReader,
    ObjectWriter,
    StoredObject,
    check_key,
    is_made_key,
    list_key_folders,
)

_INCOMING: Final = ".incoming"
_ABSENT: Final = frozenset({errno.ENOENT, errno.ENOTDIR, errno.EISDIR})


class LocalObjects:
    """The storage port on a folder. Only the owner can read the folder and its content."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._incoming = root / _INCOMING
        try:
            _make_folder(root)
            _make_folder(self._incoming)
        except OSError as error:
            raise ConfigurationError(
                f"TASKMILL_STORAGE_URL names {root}, which cannot be made or opened ({error.strerror}): "
                "make the folder, and make the account that Taskmill runs as its owner"
            ) from error

    def put_file(self, key: str, path: Path) -> None:
        target = self._path(key)
        with raising_storage_errors(key):
            waiting = self._incoming / secrets.token_hex(16)
            try:
                _link_or_copy(path, waiting)
                _settle(waiting, target)
            finally:
                waiting.unlink(missing_ok=True)

    def open_writer(self, key: str) -> ObjectWriter:
        with raising_storage_errors(key):
            return _LocalWriter(self._incoming / secrets.token_hex(16), self._path(key), key)

    def open_reader(self, key: str, start: int = 0, length: int | None = None) -> ObjectReader:
        with raising_storage_errors(key):
            return _LocalReader(self._path(key), key, start, length)

    def local_path(self, key: str) -> Path | None:
        path = self._path(key)
        with raising_storage_errors(key):
            _require_regular(path.lstat())
        return path

    def fetch(self, key: str, path: Path) -> None:
        with raising_storage_errors(key):
            _copy(self._path(key), path)

    def size(self, key: str) -> int:
        with raising_storage_errors(key):
            found = self._path(key).lstat()
            _require_regular(found)
            return found.st_size

    def delete(self, keys: Sequence[str]) -> None:
        for key in keys:
            path = self._path(key)
            with raising_storage_errors(key):
                path.unlink(missing_ok=True)

    def list_objects(self, older_than: datetime) -> Iterator[StoredObject]:
        limit = older_than.timestamp()
        for folder in list_key_folders():
            for entry, found in _scan(self._root / folder):
                key = f"{folder}/{entry.name}"
                if stat.S_ISREG(found.st_mode) and found.st_mtime < limit and is_made_key(key):
                    yield StoredObject(key, datetime.fromtimestamp(found.st_mtime, UTC))

    def abort_abandoned(self, older_than: datetime) -> int:
        limit = older_than.timestamp()
        # The time of the last write counts, so that a long upload that is still running is kept.
        abandoned = [entry for entry, found in _scan(self._incoming) if found.st_mtime < limit]
        for path in abandoned:
            with raising_storage_errors(path.name):
                path.unlink(missing_ok=True)
        return len(abandoned)

    def check(self) -> None:
        probe = self._incoming / secrets.token_hex(16)
        try:
            try:
                probe.write_bytes(b"\0")
            finally:
                probe.unlink(missing_ok=True)
        except OSError as error:
            raise StorageUnavailable(f"the storage folder cannot be written to: {error.strerror}") from error

    def _path(self, key: str) -> Path:
        return self._root / check_key(key)


class _LocalWriter:
    def __init__(self, waiting: Path, target: Path, key: str) -> None:
        self._waiting = waiting
        self._target = target
        self._key = key
        self._descriptor = _create(waiting)
        self._is_over = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        with raising_storage_errors(self._key):
            _write_all(self._descriptor, data)

    def commit(self) -> None:
        try:
            with raising_storage_errors(self._key):
                self._close()
                _settle(self._waiting, self._target)
        except BaseException:
            self.abort()
            raise
        self._is_over = True

    def abort(self) -> None:
        if self._is_over:
            return
        self._is_over = True
        # `abort_abandoned` finds what cannot be removed now. The reason for the abort is the error to report.
        with suppress(OSError):
            self._close()
        with suppress(OSError):
            self._waiting.unlink(missing_ok=True)

    def _close(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.abort()


class _LocalReader:
    def __init__(self, path: Path, key: str, start: int, length: int | None) -> None:
        self._key = key
        self._left = length
        self._descriptor = _open_regular(path)
        os.lseek(self._descriptor, start, os.SEEK_SET)

    def read(self, size: int = -1) -> bytes:
        with raising_storage_errors(self._key):
            if size < 0:
                return b"".join(iter(lambda: self.read(COPY_BYTES), b""))
            wanted = size if self._left is None else min(size, self._left)
            data = os.read(self._descriptor, wanted)
        if self._left is not None:
            self._left -= len(data)
        return data

    def close(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@contextmanager
def raising_storage_errors(key: str) -> Iterator[None]:
    """Raise the errors of `shared/errors.py` in the place of those of the operating system."""
    try:
        yield
    except FileExistsError:
        raise
    except OSError as error:
        if is_no_room(error):
            raise StorageFull("the storage folder has no space left") from error
        if error.errno in _ABSENT:
            raise ObjectMissing(key) from error
        raise StorageUnavailable(f"the storage folder failed: {error.strerror}") from error


def _create(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)


def _open_regular(path: Path) -> int:
    """Return a descriptor of a regular file. A folder, a link or a pipe, which would block, counts as absent."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise FileNotFoundError(errno.ENOENT, "it is a symbolic link") from error
        raise
    try:
        _require_regular(os.fstat(descriptor))
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _require_regular(found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise FileNotFoundError(errno.ENOENT, "it is not a regular file")


def _write_all(descriptor: int, data: bytes | bytearray | memoryview) -> None:
    left = memoryview(data)
    while left:
        left = left[os.write(descriptor, left) :]


def _link_or_copy(source: Path, target: Path) -> None:
    _require_regular(source.lstat())
    try:
        os.link(source, target, follow_symlinks=False)
        target.chmod(0o600)
        # The object is new, however old the file is.
        os.utime(target)
    except OSError as error:
        if is_no_room(error):
            raise
        # Another file system, one without links, or a file of another owner.
        target.unlink(missing_ok=True)
        _copy(source, target)


def _copy(source: Path, target: Path) -> None:
    reading = _open_regular(source)
    try:
        writing = _create(target)
        try:
            while data := os.read(reading, COPY_BYTES):
                _write_all(writing, data)
        except BaseException:
            target.unlink(missing_ok=True)
            raise
        finally:
            os.close(writing)
    finally:
        os.close(reading)


def _settle(waiting: Path, target: Path) -> None:
    """Rename a finished file to its key, durably."""
    _sync(waiting)
    _make_folder(target.parent)
    waiting.replace(target)
    _sync(target.parent)


def _make_folder(folder: Path) -> None:
    """Create a folder and its missing parents, durably, readable by the owner only."""
    if folder.is_dir():
        return
    _make_folder(folder.parent)
    try:
        folder.mkdir(mode=0o700)
    except FileExistsError:
        # Another thread or process has created it meanwhile.
        if not folder.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, "there is a file of that name") from None
    _sync(folder.parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _scan(folder: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """Yield the entries of a folder, except those that are deleted while it is read."""
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                with suppress(FileNotFoundError):
                    yield Path(entry.path), entry.stat(follow_symlinks=False)
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        raise StorageUnavailable(f"the storage folder failed: {error.strerror}") from error
