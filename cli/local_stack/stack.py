"""Runs a local stack from a program: `with LocalStack(port=0) as stack: stack.ready["api_url"]`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from cli.local_stack.child_process import Command, kill_group, spawn, wait_until
from cli.local_stack.data_directory import DataDirectory, remove_data_directory
from cli.local_stack.owned_files import writing_in
from cli.local_stack.server_process import ServerFailed

BUILT_IN_SERVERS = dict.fromkeys(
    ("TASKMILL_DATABASE_URL", "TASKMILL_BROKER_URL", "TASKMILL_STORAGE_URL", "TASKMILL_SMTP_URL"), ""
)
"""An environment in which no server of the user replaces a built-in one."""

_STOP_SECONDS = 25.0


class LocalStack:
    """Runs `taskmill up` as a process of its own, with its log in `stack.log` of the data directory.

    Without a data directory it uses a temporary one, which is deleted at the end of the `with` block. `environment` is
    added to that of this process. Port 0 means any free one.
    """

    def __init__(
        self,
        data_dir: Path | None = None,
        *,
        port: int = 0,
        host: str = "127.0.0.1",
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._temporary = data_dir is None
        self.data_dir = (data_dir or _make_temporary_directory()).absolute()
        self._host = host
        self._port = port
        self._environment = dict(environment or {})
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def ready(self) -> dict[str, Any]:
        """The content of the ready file, with the current pids of parts that were restarted."""
        content = json.loads((self.data_dir / "ready.json").read_text(encoding="utf-8"))
        assert isinstance(content, dict)
        return content

    @property
    def supervisor_pid(self) -> int | None:
        """The pid of the supervisor, or None if the stack was not started."""
        return self._process.pid if self._process else None

    @property
    def log_path(self) -> Path:
        """The file with the output of the stack since its last start."""
        return self.data_dir / "stack.log"

    def start(self, limit_seconds: float = 120) -> None:
        """Start it and return when it is ready.

        Raises `ServerFailed` with the end of its log when it does not become ready, and `ConfigurationError` when another
        stack runs on the data directory or it cannot be written to.
        """
        ready_path = self.data_dir / "ready.json"
        # Entered for a moment, so that the files of a stack that runs on the directory are left alone.
        with DataDirectory(self.data_dir), writing_in(self.data_dir):
            ready_path.unlink(missing_ok=True)
            log = self.log_path.open("wb")
        project = str(Path(__file__).resolve().parents[2])
        environment = os.environ | self._environment
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [project, environment.get("PYTHONPATH")]))
        argv = [sys.executable, "-m", "cli.main", "up", "--data-dir", str(self.data_dir)]
        argv += ["--host", self._host, "--port", str(self._port)]
        with log:
            self.log_path.chmod(0o600)
            process = self._process = spawn(Command(tuple(argv), environment), log)
        wait_until(lambda: process.poll() is not None or ready_path.exists(), limit_seconds, pause_seconds=0.01)
        if process.poll() is not None or not ready_path.exists():
            self.stop()
            output = self.log_path.read_text(encoding="utf-8", errors="replace")[-4000:]
            raise ServerFailed(f"The local stack in {self.data_dir} did not get ready:\n{output}")

    def stop(self) -> int | None:
        """Stop all parts in order, and return the exit code of the supervisor. The data are kept."""
        if self._process is None:
            return None
        process, self._process = self._process, None
        process.terminate()
        try:
            return process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            kill_group(process.pid)
            return process.wait()

    def wait(self) -> None:
        """Wait until the stack ends by itself."""
        if self._process is not None:
            self._process.wait()

    def kill_supervisor(self) -> None:
        """Kill only the supervisor, as if it had crashed. The next start ends the parts that it leaves running."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def remove(self) -> None:
        """Delete the data of the stopped stack."""
        remove_data_directory(self.data_dir)

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self._leave()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leave()

    def _leave(self) -> None:
        self.stop()
        if self._temporary:
            self.remove()


def _make_temporary_directory() -> Path:
    directory = Path(tempfile.mkdtemp(prefix="taskmill-data-"))
    if os.geteuid() == 0:
        # The account that Postgres runs as must reach its cluster. Everything else in it is closed to other accounts.
        directory.chmod(0o711)
    return directory
