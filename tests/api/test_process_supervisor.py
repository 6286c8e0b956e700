"""The supervisor of several API processes, with processes that serve nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.conftest import PATIENCE_SECONDS, ROOT, Eventually

CANNOT_START = 3
SCRIPT = f"""
import os, signal, socket, sys
from api.process_supervisor import ProcessSupervisor

def run(sockets):
    if sys.argv[1] == "fail":
        sys.exit({CANNOT_START})
    with open(os.path.join(sys.argv[1], str(os.getpid())), "w"):
        pass
    signal.pause()

if __name__ == "__main__":
    with socket.create_server(("127.0.0.1", 0)) as listening:
        sys.exit(ProcessSupervisor(run, listening, 2, {CANNOT_START}, {PATIENCE_SECONDS}).run())
"""


class Supervised:
    """A supervisor that runs as a process, and the processes that it has started."""

    def __init__(self, folder: Path, argument: str) -> None:
        script = folder / "supervised.py"
        script.write_text(SCRIPT)
        self._started = folder / "started"
        self._started.mkdir()
        argument = argument or str(self._started)
        self.process = subprocess.Popen([sys.executable, script, argument], env={**os.environ, "PYTHONPATH": str(ROOT)})

    def running(self) -> set[int]:
        """Return the ids of the processes that run."""
        return {int(file.name) for file in self._started.iterdir() if psutil.pid_exists(int(file.name))}


@pytest.fixture
def supervised(tmp_path: Path, eventually: Eventually) -> Iterator[Supervised]:
    started = Supervised(tmp_path, "")
    try:
        eventually(lambda: len(started.running()) == 2)
        yield started
    finally:
        started.process.kill()
        started.process.wait(PATIENCE_SECONDS)


def test_a_process_that_ends_is_replaced_and_a_signal_stops_all(supervised: Supervised, eventually: Eventually) -> None:
    lost, kept = supervised.running()

    os.kill(lost, signal.SIGKILL)
    eventually(lambda: len(supervised.running() - {lost}) == 2)
    assert kept in supervised.running()
    supervised.process.terminate()

    assert supervised.process.wait(PATIENCE_SECONDS) == 0
    eventually(lambda: not supervised.running())


def test_processes_stop_when_their_supervisor_is_killed(supervised: Supervised, eventually: Eventually) -> None:
    supervised.process.kill()
    supervised.process.wait(PATIENCE_SECONDS)

    eventually(lambda: not supervised.running())


def test_a_process_that_cannot_start_ends_the_supervisor_with_its_exit_code(tmp_path: Path) -> None:
    started = Supervised(tmp_path, "fail")

    assert started.process.wait(PATIENCE_SECONDS) == CANNOT_START
