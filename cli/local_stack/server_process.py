"""The base class of the servers of the local stack, which the supervisor or a test runs."""

from __future__ import annotations

import atexit
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Container
from pathlib import Path
from types import TracebackType
from typing import Self

from cli.local_stack.child_process import Command, end_group, kill_group, spawn, wait_until

_STARTS = 5


class ServerFailed(Exception):
    """The server ended, or did not answer in time. The message has the end of its output."""


class ServerProcess(ABC):
    """A server whose files, port and password are in one folder.

    Without a supervisor, use it as a context manager, or call `start`, `stop` (orderly) and `kill` (like a power cut) in any
    order. Its output goes to `server.log` in the folder. It takes none of the ports `promised` to other servers.
    """

    def __init__(self, directory: Path, promised: Container[int] = ()) -> None:
        self.directory = directory.absolute()
        self._promised = promised
        self._process: subprocess.Popen[bytes] | None = None

    @abstractmethod
    def prepare(self) -> None:
        """Create what a start needs, choose a free port, and end what an earlier run left behind."""

    @abstractmethod
    def command(self) -> Command:
        """Return the command that starts it, after `prepare`."""

    @abstractmethod
    def is_ready(self) -> bool:
        """Return whether it answers a query now."""

    @abstractmethod
    def clear_remains(self) -> None:
        """Kill processes that outlived the main process of the server, and remove files that would prevent the next start."""

    def complete(self) -> None:  # noqa: B027 - most servers need nothing.
        """Prepare the server after it answers, and before it is used."""

    @property
    def log_path(self) -> Path:
        """The file with its output since its last start."""
        return self.directory / "server.log"

    @property
    def pid(self) -> int | None:
        """The pid of the main process, or None if it was not started."""
        return self._process.pid if self._process else None

    def start(self, limit_seconds: float = 120) -> None:
        """Start it, and return when it answers. Raises `ServerFailed`, or `ConfigurationError` if it cannot run here."""
        if self._process is not None:
            if self._process.poll() is None:
                return
            self.kill()
        for attempt in range(1, _STARTS + 1):
            try:
                self._start_once(limit_seconds)
            except ServerFailed:
                # The port may have been taken since it was chosen. The next attempt chooses another.
                if attempt == _STARTS:
                    raise
            else:
                atexit.register(self.kill)
                return

    def stop(self) -> None:
        """Stop it in order. What was committed is kept."""
        if self._process is not None:
            end_group(self._process, self.command().stop_signal, patience_seconds=20)
            self._forget()

    def kill(self) -> None:
        """Kill it and its child processes, without a signal before."""
        if self._process is not None:
            kill_group(self._process.pid)
            self._process.wait()
            self._forget()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _forget(self) -> None:
        self._process = None
        self.clear_remains()
        atexit.unregister(self.kill)

    def _start_once(self, limit_seconds: float) -> None:
        self.prepare()
        with self.log_path.open("wb") as log:
            process = self._process = spawn(self.command(), log)
        try:
            wait_until(lambda: process.poll() is not None or self.is_ready(), limit_seconds)
            if process.poll() is not None or not self.is_ready():
                output = self.log_path.read_text(encoding="utf-8", errors="replace")[-2000:].strip()
                raise ServerFailed(f"{type(self).__name__} in {self.directory} did not start:\n{output}")
            self.complete()
        except BaseException:
            self.kill()
            raise
