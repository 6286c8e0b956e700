"""Identifies processes by pid and start time, because pids are used again."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from cli.local_stack.child_process import wait_until


@dataclass(frozen=True)
class ProcessIdentity:
    """One process that runs or ran on this machine. `started` differs between processes with the same pid."""

    pid: int
    started: str


def identify(pid: int) -> ProcessIdentity | None:
    """Return the process that has the pid now, or None if there is none or only a zombie."""
    if sys.platform == "linux":
        return _identify_by_proc(pid)
    import psutil

    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        return ProcessIdentity(pid, repr(process.create_time()))
    except psutil.Error:
        return None


def is_alive(identity: ProcessIdentity) -> bool:
    """Return whether this process still runs."""
    return identify(identity.pid) == identity


def list_descendants(pid: int) -> list[ProcessIdentity]:
    """Return the child processes of a process, and theirs, whatever their session."""
    import psutil

    try:
        children = psutil.Process(pid).children(recursive=True)
    except psutil.Error:
        return []
    return [identity for child in children if (identity := identify(child.pid))]


def list_marked(variable: str, value: str) -> list[ProcessIdentity]:
    """Return the processes with the variable in their environment, as far as this account can read it."""
    import psutil

    marked = []
    for process in psutil.process_iter():
        try:
            found = process.environ().get(variable) == value
        except (psutil.Error, OSError):
            continue
        if found and (identity := identify(process.pid)):
            marked.append(identity)
    return marked


def signal_all(identities: Iterable[ProcessIdentity], number: int) -> None:
    """Send the signal to those processes that still run."""
    for identity in identities:
        if is_alive(identity):
            with suppress(ProcessLookupError):
                os.kill(identity.pid, number)


def wait_until_gone(identities: Iterable[ProcessIdentity], limit_seconds: float) -> bool:
    """Wait for the end of all processes, and return whether all ended within the limit."""
    remaining = list(identities)
    return wait_until(lambda: not any(is_alive(identity) for identity in remaining), limit_seconds)


def _identify_by_proc(pid: int) -> ProcessIdentity | None:
    # proc_pid_stat(5): the name, in parentheses, may hold any character. After it come the state and, 19 fields later,
    # the start in clock ticks since the boot. Unlike a time of day, it does not change when the clock is set.
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    if fields[0] in "ZX":
        return None
    return ProcessIdentity(pid, f"{_boot_id()}/{fields[19]}")


@cache
def _boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
