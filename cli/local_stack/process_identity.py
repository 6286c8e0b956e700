"""Knowing a process again: by its pid and by when it started, since a pid alone is soon another's."""

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
    """One process that runs or ran on this machine. `started` is opaque, and differs for each holder of the pid."""

    pid: int
    started: str


def identify(pid: int) -> ProcessIdentity | None:
    """Who has the pid now; None when nobody has, or only a zombie, which holds nothing any more."""
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
    """Whether that very process still runs."""
    return identify(identity.pid) == identity


def list_descendants(pid: int) -> list[ProcessIdentity]:
    """The processes that it started, and those that these started, in whatever session they are."""
    import psutil

    try:
        children = psutil.Process(pid).children(recursive=True)
    except psutil.Error:
        return []
    return [identity for child in children if (identity := identify(child.pid))]


def list_marked(variable: str, value: str) -> list[ProcessIdentity]:
    """The processes, of those that can be looked into, that were started with the variable in their environment."""
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
    """Send the signal to those that still are who they were."""
    for identity in identities:
        if is_alive(identity):
            with suppress(ProcessLookupError):
                os.kill(identity.pid, number)


def wait_until_gone(identities: Iterable[ProcessIdentity], limit_seconds: float) -> bool:
    """Whether all had ended within the limit."""
    remaining = list(identities)
    return wait_until(lambda: not any(is_alive(identity) for identity in remaining), limit_seconds)


def _identify_by_proc(pid: int) -> ProcessIdentity | None:
    # proc_pid_stat(5): after the name, which stands in parentheses and may hold anything, come the state and, 19 fields
    # later, the start in clock ticks since the boot. Unlike a time of day, it never moves when the clock is set.
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
