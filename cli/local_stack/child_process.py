"""Starting and ending the processes of the local stack, each in a session of its own."""

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
    """How a process is started and how it is asked to stop. No secret may stand in `argv`, which everyone can read."""

    argv: tuple[str, ...]
    environment: Mapping[str, str]
    directory: Path = Path("/")
    account: Account | None = None
    stop_signal: signal.Signals = field(default=signal.SIGTERM)


def spawn(command: Command, output: int | IO[bytes]) -> subprocess.Popen[bytes]:
    """Start it with no input and with both outputs going to `output`. Raises `OSError` when it cannot be executed.

    It leads a session, so that its process group bears its pid. On Linux the kernel sends it `stop_signal` should this
    process die first; this is asked for only on the main thread, as it is the thread's death that counts.
    """
    account = command.account
    with warnings.catch_warnings():
        # Python 3.12 and later warn of code that runs between fork and exec in a process with threads, since it could
        # wait for a lock that another thread held. This code takes none: it makes two system calls.
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
    """Ask it to stop, and kill its whole process group when it has not by then. Nothing of the group is left."""
    if process.poll() is None:
        process.send_signal(stop_signal)
        with suppress(subprocess.TimeoutExpired):
            process.wait(patience_seconds)
    kill_group(process.pid)
    process.wait()


def kill_group(leader_pid: int) -> None:
    """Kill every process of the group. A group that is gone is no error."""
    try:
        os.killpg(leader_pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    except PermissionError:
        # macOS answers so for a group of which only a zombie is left.
        pass


def wait_until(condition: Callable[[], bool], limit_seconds: float, pause_seconds: float = 0.02) -> bool:
    """Whether the condition came true within the limit."""
    deadline = time.monotonic() + limit_seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(pause_seconds)
    return True


def _stop_with_the_parent(stop_signal: signal.Signals) -> Callable[[], None] | None:
    if sys.platform != "linux" or threading.current_thread() is not threading.main_thread():
        return None
    # Everything is looked up before the fork: after it, only two system calls are made.
    prctl = ctypes.CDLL(None).prctl
    number = int(stop_signal)
    parent = os.getpid()

    def ask() -> None:
        prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)

    return ask
