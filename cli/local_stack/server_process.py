"""A server of the local stack: what the supervisor asks of one, and how a test runs one alone."""

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
    """The server ended, or did not answer in time. The message holds the end of what it printed."""


class ServerProcess(ABC):
    """A server that keeps all it has in one folder, with its port and its password.

    Alone, it is a context manager; or `start`, `stop` (orderly) and `kill` (as a power cut would), in any order and
    again and again. Its output goes to `server.log` in the folder. The port is none of those `promised` to others.
    """

    def __init__(self, directory: Path, promised: Container[int] = ()) -> None:
        self.directory = directory.absolute()
        self._promised = promised
        self._process: subprocess.Popen[bytes] | None = None

    @abstractmethod
    def prepare(self) -> None:
        """Make what is needed before a start, choose a free port, and end what an earlier run left behind."""

    @abstractmethod
    def command(self) -> Command:
        """How it is started, once prepared."""

    @abstractmethod
    def is_ready(self) -> bool:
        """Whether it answers a query now."""

    @abstractmethod
    def clear_remains(self) -> None:
        """Kill what has outlived the server's main process, and remove what would hinder the next start."""

    def complete(self) -> None:  # noqa: B027 - most have nothing to do.
        """What is done once it answers, before others use it."""

    @property
    def log_path(self) -> Path:
        """What it has printed since its last start."""
        return self.directory / "server.log"

    @property
    def pid(self) -> int | None:
        """The main process, while it is to run."""
        return self._process.pid if self._process else None

    def start(self, limit_seconds: float = 120) -> None:
        """Start it and return when it answers. Raises `ServerFailed`, or `ConfigurationError` if it cannot run here."""
        if self._process is not None:
            if self._process.poll() is None:
                return
            self.kill()
        for attempt in range(1, _STARTS + 1):
            try:
                self._start_once(limit_seconds)
            except ServerFailed:
                # A port that was free when it was chosen may be taken by now: the next turn takes another.
                if attempt == _STARTS:
                    raise
            else:
                atexit.register(self.kill)
                return

    def stop(self) -> None:
        """Stop it in order. All that was committed is there at the next start."""
        if self._process is not None:
            end_group(self._process, self.command().stop_signal, patience_seconds=20)
            self._forget()

    def kill(self) -> None:
        """Kill it and all that it started, without a warning."""
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
                said = self.log_path.read_text(encoding="utf-8", errors="replace")[-2000:].strip()
                raise ServerFailed(f"{type(self).__name__} in {self.directory} did not start:\n{said}")
            self.complete()
        except BaseException:
            self.kill()
            raise
