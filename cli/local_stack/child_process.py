"""Starts and ends the processes of the local stack, each in a session of its own."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Account:
    """The user and group that a process runs as."""

    uid: int
    gid: int


@dataclass(frozen=True)
class Command:
    """How a process is started, and which signal stops it. `argv` must hold no secret, since any account can read it."""

    argv: tuple[str, ...]
    environment: Mapping[str, str]
    directory: Path = Path("/")
    account: Account | None = None
    stop_signal: signal.Signals = field(default=signal.SIGTERM)


def spawn(command: Command, output: int | IO[bytes]) -> subprocess.Popen[bytes]:
    """Start a process without input, whose standard output and error go to `output`. Raises `OSError` if it cannot run.

    The process leads a session, so its process group has the number of its pid. On Linux the kernel sends it
    `stop_signal` when this process dies first. That works only from the main thread, because the kernel watches the
    thread.
    """
    account = command.account
    with warnings.catch_warnings():
        # Python 3.12 and later warn about code between fork and exec in a process with threads, as it could wait for a
        # lock of another thread. This code takes no lock: it makes two system calls.
        warnings.filterwarnings("ignore", message=".*multi-threaded", category=DeprecationWarning)
        return subprocess.Popen(
            command.argv,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=dict(command.environment),
            cwd=command.directory,
            start_new_session=True,
            user=account.uid if account else None,
            group=account.gid if account else None,
            extra_groups=[] if account else None,
            preexec_fn=_stop_with_the_parent(command.stop_signal),
        )


def end_group(process: subprocess.Popen[bytes], stop_signal: signal.Signals, patience_seconds: float) -> None:
    """Send the signal, wait for up to `patience_seconds`, and kill the process group. No process of it is left."""
    if process.poll() is None:
        process.send_signal(stop_signal)
        with suppress(subprocess.TimeoutExpired):
            process.wait(patience_seconds)
    kill_group(process.pid)
    process.wait()


def kill_group(leader_pid: int) -> None:
    """Kill every process of the group. It is not an error if there is none."""
    try:
        os.killpg(leader_pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    except PermissionError:
        # macOS raises this for a group of which only a zombie is left.
        pass


def wait_until(condition: Callable[[], bool], limit_seconds: float, pause_seconds: float = 0.02) -> bool:
    """Wait for the condition, and return whether it was true within the limit."""
    deadline = time.monotonic() + limit_seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(pause_seconds)
    return True


def _stop_with_the_parent(stop_signal: signal.Signals) -> Callable[[], None] | None:
    if sys.platform != "linux" or threading.current_thread() is not threading.main_thread():
        return None
    # Everything is looked up before the fork. After it, there are only two system calls.
    prctl = ctypes.CDLL(None).prctl
    number = int(stop_signal)
    parent = os.getpid()

    def ask() -> None:
        prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)

    return ask
