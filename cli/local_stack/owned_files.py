"""Files and folders that only their owner can read, and the values that the stack stores in them."""

from __future__ import annotations

import json
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cli.local_stack.child_process import Account
from shared.errors import ConfigurationError


def make_folder(path: Path, *, passable: bool = False) -> Path:
    """Create a folder and those above it, if they are missing, readable for the owner only, and return it.

    With `passable`, other accounts can pass through root's folders, but not list them: the account that Postgres runs as
    must reach its own folder. Existing folders are not changed. Raises `ConfigurationError` if one cannot be created.
    """
    mode = 0o711 if passable and os.geteuid() == 0 else 0o700
    try:
        missing = [folder for folder in (path, *path.parents) if not folder.exists()]
        for folder in reversed(missing):
            folder.mkdir(mode=mode, exist_ok=True)
            folder.chmod(mode)
        if not path.is_dir():
            raise ConfigurationError(f"{path} is not a folder")
    except OSError as error:
        raise ConfigurationError(f"The folder {path} cannot be created: {error.strerror}") from error
    return path


@contextmanager
def writing_in(data_dir: Path) -> Iterator[None]:
    """Raise a `ConfigurationError` that says what to do, in place of an `OSError` within the block."""
    try:
        yield
    except OSError as error:
        raise ConfigurationError(
            f"The data directory {data_dir} cannot be used: {error.filename or data_dir}: {error.strerror}. "
            "Choose another --data-dir, or change the owner or the permissions of this one"
        ) from error


def find_place(folder: Path) -> str | None:
    """Return the device and inode of a folder, which differ for a copy and stay when it is renamed; None if it is missing."""
    try:
        status = folder.stat()
    except OSError:
        return None
    return f"{status.st_dev}:{status.st_ino}"


def write_atomically(path: Path, text: str, mode: int = 0o600, owner: Account | None = None) -> None:
    """Replace the file in one step, so that a reader sees the old text or this one.

    The file has the permissions `mode`. Its owner is `owner`, or the user of this process.
    """
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    draft = Path(name)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            os.fchmod(file.fileno(), mode)
            if owner is not None:
                os.fchown(file.fileno(), owner.uid, owner.gid)
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except BaseException:
        draft.unlink()
        raise


def read_memory(path: Path) -> dict[str, Any]:
    """Return what `write_memory` stored, or an empty mapping. Raises `ConfigurationError` for any other file."""
    try:
        memory = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"{path} cannot be read: {error}") from error
    if not isinstance(memory, dict):
        raise ConfigurationError(f"{path} was not written by Taskmill: it holds no JSON object")
    return memory


def write_memory(path: Path, memory: dict[str, Any]) -> None:
    """Store a mapping as JSON, readable for the owner only, since it holds passwords."""
    write_atomically(path, json.dumps(memory, indent=2) + "\n")


def find_short_runtime_folder(uid: int, remembered: str | None) -> Path:
    """Return a folder that only `uid` can enter, with a path short enough for a socket in it (107 bytes).

    The remembered one is used again if it still belongs to that account and is closed to others. A new one has a random
    name, because another account could create a predictable one first.
    """
    if remembered is not None and _is_private(Path(remembered), uid):
        return Path(remembered)
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    usable = uid == os.geteuid() and runtime and len(runtime) < 60 and _is_private(Path(runtime), uid)
    base = runtime if usable else "/tmp"  # noqa: S108 - macOS' own temporary folder is too deep for a socket.
    folder = Path(tempfile.mkdtemp(prefix="taskmill-", dir=base))
    if uid != os.geteuid():
        os.chown(folder, uid, -1)
    return folder


def _is_private(folder: Path, uid: int) -> bool:
    try:
        status = folder.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(status.st_mode) and status.st_uid == uid and stat.S_IMODE(status.st_mode) & 0o077 == 0
