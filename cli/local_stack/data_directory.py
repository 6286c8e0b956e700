"""The data directory of a stack: its layout, its lock, and the secrets and ports that are the same at each start."""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
from collections.abc import Callable, Container
from pathlib import Path
from types import TracebackType
from typing import Self

from cli.local_stack.free_ports import choose_port
from cli.local_stack.owned_files import find_place, make_folder, read_memory, write_memory, writing_in
from shared.errors import ConfigurationError

_MEMORY_NAME = "local_stack.json"
STATE_KEY = "state_folder"
"""The key under which a folder outside of the data directory is stored that holds the folders of the parts."""


def default_data_directory() -> Path:
    """Return `TASKMILL_DATA_DIR`, or `taskmill` in the user's data folder (XDG Base Directory Specification)."""
    if chosen := os.environ.get("TASKMILL_DATA_DIR"):
        return Path(chosen).expanduser()
    data_home = os.environ.get("XDG_DATA_HOME", "")
    # The specification says to ignore relative paths.
    base = Path(data_home) if data_home.startswith("/") else Path.home() / ".local" / "share"
    return base / "taskmill"


class DataDirectory:
    """A data directory that only this process uses, within the `with` block.

    Entering creates the folder. Raises `ConfigurationError` if another stack runs on it, or it cannot be written to.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self._memory_path = self.path / _MEMORY_NAME
        self._memory: dict[str, object] = {}
        self._lock: int | None = None

    def __enter__(self) -> Self:
        make_folder(self.path, passable=True)
        with writing_in(self.path):
            lock = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(lock, 32).decode(errors="replace").strip() or "unknown"
            os.close(lock)
            raise ConfigurationError(
                f"Another Taskmill (process {holder}) runs on {self.path}: stop it, or choose another --data-dir"
            ) from None
        os.ftruncate(lock, 0)
        os.write(lock, f"{os.getpid()}\n".encode())
        self._lock = lock
        self._memory = read_memory(self._memory_path)
        self._forget_processes_of_original()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    @property
    def process_record(self) -> Path:
        """The file in which the supervisor records its processes."""
        return self.path / "processes.json"

    def folder(self, name: str) -> Path:
        """Return a folder in it, which is created if it is missing."""
        return make_folder(self.path / name)

    def recall(self, name: str) -> object:
        """Return what `remember` stored under the name, or None."""
        return self._memory.get(name)

    def remember(self, name: str, value: object) -> None:
        """Store a value that JSON can hold, until the data directory is removed."""
        if self._memory.get(name) != value:
            self._memory[name] = value
            self._keep_memory()

    def secret(self, name: str, make: Callable[[], str] = lambda: secrets.token_urlsafe(32)) -> str:
        """Return the secret of that name, which is random at the first start and then stays the same."""
        kept = self._memory.get(name)
        if not isinstance(kept, str):
            kept = self._memory[name] = make()
            self._keep_memory()
        return kept

    def port(self, name: str, host: str = "127.0.0.1", promised: Container[int] = ()) -> int:
        """Return a free port that is not promised to another use: that of the last start, if it is free."""
        remembered = self._memory.get(name)
        port = choose_port(remembered if isinstance(remembered, int) else None, host, promised)
        if port != remembered:
            self._memory[name] = port
            self._keep_memory()
        return port

    def _forget_processes_of_original(self) -> None:
        """Forget the recorded processes if this is a copy: they belong to the original, and must not be ended."""
        place = find_place(self.path)
        kept = self._memory.get("place")
        if kept == place:
            return
        if kept is not None:
            self._memory.pop("mark", None)
            self.process_record.unlink(missing_ok=True)
        self._memory["place"] = place
        self._keep_memory()

    def _keep_memory(self) -> None:
        with writing_in(self.path):
            write_memory(self._memory_path, self._memory)


def is_in_use(path: Path) -> bool:
    """Return whether a stack runs on the data directory. For a copy of a running one it returns False."""
    try:
        lock = os.open(path / "lock", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(lock)
    return False


def find_other_owner(state: Path, path: Path) -> Path | None:
    """Return the other data directory that a folder of parts belongs to, or None if it belongs to this one.

    A data directory that was moved left nothing at its old place, or whatever was made there since names another folder.
    """
    try:
        noted = Path((state / "owner").read_text(encoding="utf-8").removesuffix("\n"))
    except OSError:
        return None
    if noted.exists() and path.exists() and noted.samefile(path):
        return None
    named = read_memory(noted / _MEMORY_NAME).get(STATE_KEY) if noted.exists() else None
    return noted if named == str(state) else None


def remove_state_folder(path: Path) -> None:
    """Delete the folder outside of a data directory that holds the folders of its parts, if there is one."""
    state = read_memory(path / _MEMORY_NAME).get(STATE_KEY)
    if isinstance(state, str) and find_other_owner(Path(state), path) is None:
        shutil.rmtree(state, ignore_errors=True)


def remove_data_directory(path: Path) -> None:
    """Delete the data directory of a stopped stack, and its folders outside of it."""
    from cli.local_stack.postgres import PostgresServer

    if (path / "postgres").exists():
        PostgresServer(path / "postgres").remove()
    remove_state_folder(path)
    shutil.rmtree(path, ignore_errors=True)
