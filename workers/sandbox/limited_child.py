"""Runs what touches untrusted bytes in a child process with limits: memory, processor time, file size, wall time.

The child is a fresh interpreter (fork and exec) in a session of its own, with an environment that holds no secret and
no open file of its worker's. It sets its limits before it imports anything that reads the bytes, then calls the named
module's

    run_in_child(request: dict, report_progress: Callable[[int, str | None], None]) -> dict

Request, progress and answer are JSON, one message to a line. In what comes back, U+FFFD stands for U+0000, which may
stand in untrusted bytes and which Postgres refuses in JSON. What the module prints goes nowhere. When the worker
process dies, however it dies, so does the child; and whatever processes the child started in its session end with it.

What ends a child, and what is raised here:

    it raises `Failed`                                        that `Failed`
    MemoryError, a crash, or SIGKILL                          /problems/out-of-memory
    the clock's limit, or the processor's (SIGXCPU)           /problems/timed-out
    a file larger than allowed (SIGXFSZ, EFBIG)               /problems/output-too-large
    no room left on the disk (ENOSPC)                         /problems/storage-full, to be tried again
    any other exception, an exit, an answer of another form,
    any other signal                                          /problems/internal-error, to be tried again; logged

A parser that crashes (SIGSEGV, SIGABRT) counts as out of memory: that is what it nearly always means under a limit of
the address space, since libraries do not look whether an allocation succeeded; `data.signal` tells which it was. So
does SIGKILL, which the kernel sends to the largest process when the machine's memory is short. What asks a process to
end, as SIGTERM does, the child passes over: a service manager that stops a worker sends that to all of its processes,
and what becomes of the work is for the worker to say, which ends the child or dies and takes it along.

This bounds what bad bytes may cost and keeps crashes out of the worker. It is no sandbox for hostile code: the child is
the same user as its worker and has its network.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

from workers.outcomes import Failed

PROJECT_ROOT = Path(__file__).resolve().parents[2]
LONGEST_LINE_BYTES = 16 << 20
STDERR_KEPT_BYTES = 4096
CHECK_EVERY_SECONDS = 0.1
_CRASHES = frozenset(
    {signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGILL, signal.SIGTRAP, signal.SIGFPE, signal.SIGKILL}
)
"""Signals that a process brings upon itself, or the kernel upon it; PDFium ends with SIGTRAP or SIGILL without memory."""

_MEMORY_MARKS = (b"MemoryError", b"Cannot allocate memory", b"std::bad_alloc", b"out of memory")

log = structlog.get_logger(__name__)


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

    `check` is called several times a second and may raise `Stopped`, which ends the child at once. What
    `report_progress` raises does so too. Raises `Failed` as the module's docstring says.
    """
    deadline = time.monotonic() + limits.wall_seconds
    opening = {
        "module": module,
        "parent": os.getpid(),
        "memory_bytes": limits.memory_bytes,
        "cpu_seconds": limits.cpu_seconds,
        "file_bytes": limits.file_bytes,
        "request": request,
    }
    child = subprocess.Popen(
        # Without the site module an interpreter is up sooner; PYTHONPATH holds what that module would find.
        [sys.executable, "-S", "-P", "-c", "import workers.sandbox.child_main as child; child.main()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        bufsize=0,
        cwd=folder,
        env=_environment(folder),
        start_new_session=True,
    )
    try:
        return _converse(child, module, json.dumps(opening).encode() + b"\n", deadline, check, report_progress)
    finally:
        _end(child)


def _environment(folder: Path) -> dict[str, str]:
    kept = {
        name: os.environ[name] for name in ("PATH", "LANG", "LC_ALL", "TZ", "LD_LIBRARY_PATH") if name in os.environ
    }
    search_path = [str(PROJECT_ROOT), *(entry for entry in sys.path if Path(entry).is_absolute())]
    return {
        **kept,
        "HOME": str(folder),
        "TMPDIR": str(folder),
        "PYTHONPATH": os.pathsep.join(dict.fromkeys(search_path)),
        "PYTHONUTF8": "1",
        "VIPS_BLOCK_UNTRUSTED": "1",
        "VIPS_CONCURRENCY": "2",
        "MALLOC_ARENA_MAX": "2",
    }


def _converse(
    child: subprocess.Popen[bytes],
    module: str,
    opening: bytes,
    deadline: float,
    check: Callable[[], None],
    report_progress: Callable[[int, str | None], None],
) -> dict[str, Any]:
    assert child.stdin and child.stdout and child.stderr
    unsent, lines, stderr = memoryview(opening), _Lines(), b""
    os.set_blocking(child.stdin.fileno(), False)
    with selectors.DefaultSelector() as selector:
        selector.register(child.stdin, selectors.EVENT_WRITE)
        selector.register(child.stdout, selectors.EVENT_READ)
        selector.register(child.stderr, selectors.EVENT_READ)
        # A process that outlives the child may hold its standard error open, so that is not waited for.
        while child.stdout in (key.fileobj for key in selector.get_map().values()):
            check()
            left = deadline - time.monotonic()
            if left <= 0:
                raise timed_out()
            for key, _ in selector.select(timeout=min(CHECK_EVERY_SECONDS, left)):
                if key.fileobj is child.stdin:
                    unsent = _send(key.fd, unsent)
                    if not unsent:
                        selector.unregister(child.stdin)
                        child.stdin.close()
                    continue
                chunk = os.read(key.fd, 65536)
                if not chunk:
                    selector.unregister(key.fileobj)
                elif key.fileobj is child.stderr:
                    stderr = (stderr + chunk)[-STDERR_KEPT_BYTES:]
                else:
                    for line in lines.feed(chunk):
                        answer = _read_message(line, module, report_progress)
                        if answer is not None:
                            return answer
    raise _why_it_died(child, module, stderr, deadline)


def _send(descriptor: int, unsent: memoryview) -> memoryview:
    """Write what the pipe takes; a child that reads no more ends the sending, and its death tells why."""
    try:
        return unsent[os.write(descriptor, unsent) :]
    except BlockingIOError:
        return unsent
    except BrokenPipeError:
        return unsent[:0]


class _Lines:
    """Cuts a stream into lines, in time proportional to its length, and refuses a line without end."""

    def __init__(self) -> None:
        self._pending = bytearray()

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        """Give the lines that this chunk completes. Raises `Failed` for one that is too long."""
        *ended, rest = chunk.split(b"\n")
        for part in ended:
            self._pending += part
            line = bytes(self._pending)
            self._pending.clear()
            yield line
        self._pending += rest
        if len(self._pending) > LONGEST_LINE_BYTES:
            raise _internal_error("The process that did the work answered too much.")


def _read_message(
    line: bytes, module: str, report_progress: Callable[[int, str | None], None]
) -> dict[str, Any] | None:
    """Do what a message of the child's says: report progress, raise its failure, or give its answer."""
    match _parse(line):
        case {"progress": [int(percent), None | str() as message]}:
            report_progress(percent, message)
            return None
        case {"failed": {"type": str(), "title": str(), **rest} as failed} if rest.keys() <= {
            "detail",
            "retryable",
            "after_seconds",
            "data",
        }:
            raise Failed(**failed)
        case {"crashed": {"error": str(error), "where": list(where)}}:
            log.error("limited_child_crashed", module=module, error=error, where=where)
            raise _internal_error("The process that did the work failed unexpectedly.")
        case {"answer": dict(answer)}:
            return answer
        case _:
            log.error("limited_child_misspoke", module=module)
            raise _internal_error("The process that did the work answered in no known form.")


def _parse(line: bytes) -> object:
    try:
        parsed: object = json.loads(line)
        return _without_nulls(parsed) if b"\\u0000" in line else parsed
    except (ValueError, RecursionError):
        return None


def _without_nulls(value: object) -> object:
    if isinstance(value, str):
        return value.replace("\0", "\ufffd")
    if isinstance(value, list):
        return [_without_nulls(item) for item in value]
    if isinstance(value, dict):
        return {_without_nulls(key): _without_nulls(item) for key, item in value.items()}
    return value


def _why_it_died(child: subprocess.Popen[bytes], module: str, stderr: bytes, deadline: float) -> Failed:
    try:
        return_code = child.wait(timeout=max(0.0, min(1.0, deadline - time.monotonic())))
    except subprocess.TimeoutExpired:
        # It closed its output without an answer and lives on, which only code that is not ours can do.
        return _internal_error("The process that did the work ended its answer.")
    if return_code == -signal.SIGXCPU:
        return timed_out()
    if return_code == -signal.SIGXFSZ:
        return output_too_large()
    if -return_code in _CRASHES or any(mark in stderr for mark in _MEMORY_MARKS):
        return out_of_memory(-return_code if return_code < 0 else None)
    log.error("limited_child_died", module=module, exit_code=return_code)
    how = {"signal": -return_code} if return_code < 0 else {"exit_code": return_code}
    return _internal_error("The process that did the work ended unexpectedly.", **how)


def timed_out() -> Failed:
    """The error of an attempt whose time is over."""
    return Failed("/problems/timed-out", "Timed out", "The work took longer than one attempt may.")


def out_of_memory(signal_number: int | None = None) -> Failed:
    """The error of work that needs more memory than a child has."""
    return Failed(
        "/problems/out-of-memory",
        "Out of memory",
        "The work needed more memory than one task may use.",
        data={"signal": signal_number},
    )


def output_too_large() -> Failed:
    """The error of work that writes a larger file than a child may."""
    return Failed("/problems/output-too-large", "Output too large", "The work made a larger file than one task may.")


def _internal_error(detail: str, **data: int) -> Failed:
    return Failed("/problems/internal-error", "Internal error", detail, retryable=True, data=data or None)


def _end(child: subprocess.Popen[bytes]) -> None:
    """End the child and all that it started in its session, and give back what it held."""
    # Until it is waited for, its number cannot be another's, so that the group is surely its own.
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()
    for pipe in (child.stdin, child.stdout, child.stderr):
        if pipe is not None:
            with suppress(BrokenPipeError):
                pipe.close()
