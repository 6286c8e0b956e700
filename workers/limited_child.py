"""Runs what touches untrusted bytes in a child process with limits: memory, processor time, file size, wall time.

The child is a fresh interpreter (fork and exec) in a session of its own, with an environment that holds no secret. It
sets its limits before it imports anything that reads the bytes, then calls the named module's

    run_in_child(request: dict, report_progress: Callable[[int, str | None], None]) -> dict

Request, progress and answer are JSON. A `Failed` raised there is raised here. A child that dies by a signal, or runs out
of memory, is `/problems/out-of-memory`; one that is out of time, by the clock or the processor's, `/problems/timed-out`.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workers.outcomes import Failed, Stopped

PROJECT_ROOT = Path(__file__).resolve().parent.parent
LONGEST_LINE_BYTES = 16 << 20
STDERR_KEPT_BYTES = 4096


@dataclass(frozen=True)
class ChildLimits:
    """What a child may use."""

    memory_bytes: int
    """Address space (RLIMIT_AS)."""
    wall_seconds: float
    cpu_seconds: int
    file_bytes: int
    """The largest file that it may write (RLIMIT_FSIZE)."""


def run_limited_child(
    module: str,
    request: Mapping[str, Any],
    limits: ChildLimits,
    folder: Path,
    check: Callable[[], None],
    report_progress: Callable[[int, str | None], None],
) -> dict[str, Any]:
    """Run the module's `run_in_child` in a child whose working and temporary folder is `folder`; give its answer.

    `check` is called several times a second and may raise `Stopped`, which ends the child at once.
    """
    deadline = time.monotonic() + limits.wall_seconds
    child = subprocess.Popen(
        [sys.executable, "-m", "workers.limited_child_main"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=folder,
        env=_environment(folder),
        start_new_session=True,
    )
    try:
        return _converse(child, module, request, limits, deadline, check, report_progress)
    finally:
        _end(child)


def _environment(folder: Path) -> dict[str, str]:
    kept = {
        name: os.environ[name] for name in ("PATH", "LANG", "LC_ALL", "TZ", "LD_LIBRARY_PATH") if name in os.environ
    }
    return {
        **kept,
        "HOME": str(folder),
        "TMPDIR": str(folder),
        "PYTHONPATH": str(PROJECT_ROOT),
        "PYTHONDONTWRITEBYTECODE": "1",
        "VIPS_BLOCK_UNTRUSTED": "1",
        "VIPS_CONCURRENCY": "2",
        "MALLOC_ARENA_MAX": "2",
    }


def _converse(
    child: subprocess.Popen[bytes],
    module: str,
    request: Mapping[str, Any],
    limits: ChildLimits,
    deadline: float,
    check: Callable[[], None],
    report_progress: Callable[[int, str | None], None],
) -> dict[str, Any]:
    assert child.stdin and child.stdout and child.stderr
    opening = {
        "module": module,
        "memory_bytes": limits.memory_bytes,
        "cpu_seconds": limits.cpu_seconds,
        "file_bytes": limits.file_bytes,
        "request": request,
    }
    try:
        child.stdin.write(json.dumps(opening).encode() + b"\n")
        child.stdin.close()
    except BrokenPipeError:
        pass
    pending, stderr = b"", b""
    with selectors.DefaultSelector() as selector:
        selector.register(child.stdout, selectors.EVENT_READ)
        selector.register(child.stderr, selectors.EVENT_READ)
        while selector.get_map():
            check()
            if time.monotonic() > deadline:
                raise timed_out()
            for key, _ in selector.select(timeout=0.2):
                chunk = os.read(key.fd, 65536)
                if not chunk:
                    selector.unregister(key.fileobj)
                elif key.fileobj is child.stderr:
                    stderr = (stderr + chunk)[-STDERR_KEPT_BYTES:]
                else:
                    pending += chunk
                    *lines, pending = pending.split(b"\n")
                    for line in lines:
                        message = json.loads(line)
                        if "progress" in message:
                            report_progress(*message["progress"])
                        elif "failed" in message:
                            raise Failed(**message["failed"])
                        else:
                            answer: dict[str, Any] = message["answer"]
                            return answer
                    if len(pending) > LONGEST_LINE_BYTES:
                        raise Failed("/problems/internal-error", "Internal error", "The child answered too much.")
    raise _why_it_died(child.wait(timeout=10), stderr)


def _why_it_died(return_code: int, stderr: bytes) -> Failed:
    if return_code == -signal.SIGXCPU:
        return timed_out()
    if (
        return_code < 0
        or b"MemoryError" in stderr
        or b"Cannot allocate memory" in stderr
        or b"std::bad_alloc" in stderr
    ):
        return Failed(
            "/problems/out-of-memory",
            "Out of memory",
            "The work needed more memory than one task may use.",
            data={"signal": -return_code if return_code < 0 else None},
        )
    return Failed(
        "/problems/internal-error",
        "Internal error",
        "The process that did the work ended unexpectedly.",
        retryable=True,
        data={"exit_code": return_code},
    )


def timed_out() -> Failed:
    """The error of an attempt whose time is over."""
    return Failed("/problems/timed-out", "Timed out", "The work took longer than one attempt may.")


def _end(child: subprocess.Popen[bytes]) -> None:
    """End the child and all it started; it is in a session of its own."""
    try:
        os.killpg(child.pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass
    child.wait()
    for pipe in (child.stdin, child.stdout, child.stderr):
        if pipe is not None:
            try:
                pipe.close()
            except BrokenPipeError:
                pass


__all__ = ["ChildLimits", "Stopped", "run_limited_child", "timed_out"]
