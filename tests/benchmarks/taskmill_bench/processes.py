"""The processes of the measured systems. Each has a process group of its own, and is ended together with it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from cli.local_stack.child_process import Command, end_group, spawn

ROOT = Path(__file__).resolve().parents[3]
BENCHMARKS = ROOT / "tests" / "benchmarks"
STOP_SECONDS = 12.0


class BenchFailed(Exception):
    """Something that a measurement needs did not work. The message says what, for the person at the terminal."""


class Server:
    """A process and its log file."""

    def __init__(self, argv: Iterable[object], environment: Mapping[str, str], log: Path) -> None:
        self._log = log
        argv = tuple(str(argument) for argument in argv)
        with log.open("ab") as output:
            self._process = spawn(Command(argv, environment_with(environment), ROOT), output)

    @property
    def pid(self) -> int:
        return self._process.pid

    def stop(self) -> None:
        """Terminate the process and its group, and kill them if they do not end in time."""
        end_group(self._process, signal.SIGTERM, STOP_SECONDS)

    def kill(self) -> None:
        """Kill the process and its group at once."""
        end_group(self._process, signal.SIGKILL, STOP_SECONDS)

    def require_running(self) -> None:
        """Raise `BenchFailed`, with the end of its log, if the process has ended."""
        if self._process.poll() is not None:
            output = self._log.read_text(encoding="utf-8", errors="replace")[-3000:].strip()
            raise BenchFailed(f"a process ended with {self._process.returncode}:\n{output}")

    def wait_for_port(self, port: int, limit_seconds: float = 60) -> None:
        """Wait until something listens on the port on loopback."""

        def listens() -> bool:
            self.require_running()
            with socket.socket() as probe:
                probe.settimeout(0.5)
                return probe.connect_ex(("127.0.0.1", port)) == 0

        wait_for(listens, limit_seconds, "a server to listen")


class Client:
    """A process that loads a system. It reads its order as JSON from its input, and prints the result as one line of JSON.

    It says `ready` when it is, so that neither its start nor its connecting is counted, and begins at `go`.
    """

    def __init__(self, argv: Iterable[object], order: Mapping[str, Any], environment: Mapping[str, str]) -> None:
        self._process = subprocess.Popen(
            [str(argument) for argument in argv],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment_with(environment),
            cwd=ROOT,
            text=True,
            start_new_session=True,
        )
        self._tell(json.dumps(order))
        assert self._process.stdout is not None
        if self._process.stdout.readline().strip() != "ready":
            self._fail()

    def go(self, limit_seconds: float) -> dict[str, Any]:
        """Start the load and return its result. Raises `BenchFailed` if it fails or exceeds the limit."""
        self._tell("go")
        try:
            answer, _ = self._process.communicate(timeout=limit_seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            raise BenchFailed(f"a client did not end within {limit_seconds:.0f} s") from None
        if self._process.returncode != 0 or not answer.strip():
            self._fail()
        result: dict[str, Any] = json.loads(answer.strip().splitlines()[-1])
        return result

    def start(self) -> None:
        """Start the load and return at once. `kill` ends it."""
        self._tell("go")

    def kill(self) -> None:
        """Kill the process."""
        self._process.kill()
        self._process.communicate()

    def _tell(self, line: str) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            self._fail()

    def _fail(self) -> None:
        self._process.kill()
        _, errors = self._process.communicate()
        raise BenchFailed(f"a client ended with {self._process.returncode}:\n{errors[-3000:].strip()}")


def environment_with(more: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of this process without the settings of Taskmill, and with the given variables."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TASKMILL_")}
    paths = [str(ROOT), str(BENCHMARKS), str(BENCHMARKS / "peers")]
    return {**kept, "PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1", **more}


def run_to_end(argv: Iterable[object], environment: Mapping[str, str], limit_seconds: float = 120) -> None:
    """Run a command. Raises `BenchFailed` with its output if it fails."""
    outcome = subprocess.run(
        [str(argument) for argument in argv],
        env=environment_with(environment),
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=limit_seconds,
        text=True,
    )
    if outcome.returncode != 0:
        raise BenchFailed(f"a preparation failed:\n{outcome.stdout[-3000:].strip()}")


def wait_for(question: Callable[[], bool], limit_seconds: float, what: str, pause_seconds: float = 0.02) -> float:
    """Wait until the condition is true and return the time (of `time.monotonic`). Raises `BenchFailed` if it takes too long."""
    deadline = time.monotonic() + limit_seconds
    while not question():
        if time.monotonic() > deadline:
            raise BenchFailed(f"waited {limit_seconds:.0f} s for {what}, which did not come")
        time.sleep(pause_seconds)
    return time.monotonic()


def python_module(name: str) -> list[str]:
    """Return the command that runs a module with this Python."""
    return [sys.executable, "-m", name]
