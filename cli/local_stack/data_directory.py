"""The stack's data directory: its layout, its lock, and the secrets and ports that stay the same at each start."""

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
"""Under which the folder is remembered that holds the folders of the parts, when that is not the data directory."""


def default_data_directory() -> Path:
    """`TASKMILL_DATA_DIR`, or `taskmill` in the user's data folder as the XDG base directory specification has it."""
    if chosen := os.environ.get("TASKMILL_DATA_DIR"):
        return Path(chosen).expanduser()
    data_home = os.environ.get("XDG_DATA_HOME", "")
    # The specification has relative paths ignored.
    base = Path(data_home) if data_home.startswith("/") else Path.home() / ".local" / "share"
    return base / "taskmill"


class DataDirectory:
    """A data directory that this process alone uses, while in the `with` block.

    Entering makes the folder and raises `ConfigurationError` when another stack holds it, or it cannot be written to.
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
        self._notice_a_copy()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    @property
    def process_record(self) -> Path:
        """Where the supervisor records what it runs."""
        return self.path / "processes.json"

    def folder(self, name: str) -> Path:
        """A folder in it, made if absent."""
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
        """The secret of that name: random at the first start, the same ever after."""
        kept = self._memory.get(name)
        if not isinstance(kept, str):
            kept = self._memory[name] = make()
            self._keep_memory()
        return kept

    def port(self, name: str, host: str = "127.0.0.1", promised: Container[int] = ()) -> int:
        """A free port for that use, promised to no other: the one of the last start, if it is free again."""
        remembered = self._memory.get(name)
        port = choose_port(remembered if isinstance(remembered, int) else None, host, promised)
        if port != remembered:
            self._memory[name] = port
            self._keep_memory()
        return port

    def _notice_a_copy(self) -> None:
        """Forget what tells of running processes when this is a copy: they are the original's, and are not to be ended."""
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
    """Whether a stack runs on the data directory. Of a copy, as of a stopped one, it is not true, whatever lies in it."""
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


def remove_data_directory(path: Path) -> None:
    """Throw away the data directory of a stopped stack, and what of it lies elsewhere."""
    from cli.local_stack.postgres import PostgresServer

    if (path / "postgres").exists():
        PostgresServer(path / "postgres").remove()
    state = read_memory(path / _MEMORY_NAME).get(STATE_KEY)
    if isinstance(state, str) and find_other_owner(Path(state), path) is None:
        shutil.rmtree(state, ignore_errors=True)
    shutil.rmtree(path, ignore_errors=True)
