"""Runs code that reads untrusted bytes in a child process with limits: memory, processor time, wall time, the size of a
file, the size of its folder, and open files.

The child is a new interpreter (fork and exec) in a session of its own. Its environment contains no secret, and it inherits
no open file of the worker. It sets its limits before it imports the module that reads the bytes, and calls the module's

    run_in_child(request: dict, report_progress: Callable[[int, str | None], None]) -> dict

Request, progress and answer are lines of JSON. In the answer, U+FFFD replaces U+0000, which untrusted bytes may contain and
Postgres refuses in JSON. What the module prints is discarded. When the worker process ends, however it ends, so does the
child; processes that the child started in its session end with it.

What ends a child, and what is raised here:

    it raises `Failed`                                        that `Failed`
    MemoryError, a crash, or SIGKILL                          /problems/out-of-memory
    the wall time, or the processor time (SIGXCPU)            /problems/timed-out
    a file larger than allowed (SIGXFSZ, EFBIG)               /problems/output-too-large
    a folder larger than allowed, which is checked here,
    or no space left on the disk (ENOSPC, EDQUOT)             /problems/storage-full, retryable
    any other exception, an exit, an answer in another form,
    any other signal                                          /problems/internal-error, retryable and logged

A crash of a parser (SIGSEGV, SIGABRT) counts as out of memory: under a limit of the address space, that is nearly always
its cause, because libraries do not check whether an allocation succeeded; `data.signal` is the signal. SIGKILL counts as
well, which the kernel sends to the largest process when the machine runs out of memory. The child ignores the signals that
ask a process to end, such as SIGTERM: a service manager that stops a worker sends them to all of its processes, but the
worker decides whether its child ends.

This bounds the cost of bad input and keeps crashes out of the worker. Where the kernel allows it, the child has no network, and
sees only the programs' files, its folder and the files that it is given (`confinement`). Elsewhere it does not contain hostile
code: the child runs as the same user as its worker.
"""

from __future__ import annotations

import json
import os
import selectors
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

from workers.outcomes import Failed
from workers.sandbox.program_paths import find_program_paths, find_search_path

LONGEST_LINE_BYTES = 16 << 20
STDERR_KEPT_BYTES = 4096
CHECK_EVERY_SECONDS = 0.1
DEFAULT_FILE_BYTES = 4 << 30
"""How large a file that a child writes may be, unless its caller sets another limit."""
MEASURE_EVERY_SECONDS = 0.25
"""How often the size of the child's folder is measured."""
FULL_BYTES = 1 << 20
"""A disk with less space than this counts as full."""
_CRASHES = frozenset(
    {signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGILL, signal.SIGTRAP, signal.SIGFPE, signal.SIGKILL}
)
"""Signals of a crash, and SIGKILL, which the kernel sends; PDFium ends with SIGTRAP or SIGILL without memory."""

_MEMORY_MARKS = (b"MemoryError", b"Cannot allocate memory", b"std::bad_alloc", b"out of memory")
_BLOCK_BYTES = 512
"""The unit of `st_blocks` (stat(2))."""

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
    folder_bytes: int
    """What all files in its folder may occupy on the disk together."""


def run_limited_child(
    module: str,
    request: Mapping[str, Any],
    limits: ChildLimits,
    folder: Path,
    check: Callable[[], None],
    report_progress: Callable[[int, str | None], None],
    readable: Iterable[Path] = (),
) -> dict[str, Any]:
    """Run the module's `run_in_child` in a child whose working and temporary folder is `folder`; return its answer.

    `readable` are the files outside of `folder` that it may read. `check` is called several times a second. If it, or
    `report_progress`, raises an exception such as `Stopped`, the child is killed at once. Raises `Failed` as the module's
    docstring describes.
    """
    deadline = time.monotonic() + limits.wall_seconds
    opening = {
        "module": module,
        "parent": os.getpid(),
        "memory_bytes": limits.memory_bytes,
        "cpu_seconds": limits.cpu_seconds,
        "file_bytes": limits.file_bytes,
        "readable": [*find_program_paths(module), *map(str, readable)],
        # Importing from a folder lists it.
        "listable": find_search_path(module),
        "writable": [str(folder), "/dev/null", "/dev/full"],
        "request": request,
    }
    child = subprocess.Popen(
        # The interpreter starts sooner without the site module; PYTHONPATH contains what that would add.
        [sys.executable, "-S", "-P", "-c", "import workers.sandbox.child_main as child; child.main()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        bufsize=0,
        cwd=folder,
        env=_environment(folder, module),
        start_new_session=True,
    )
    try:
        watch = _FolderWatch(folder, limits.folder_bytes)

        def check_all() -> None:
            check()
            watch.check()

        return _converse(child, module, json.dumps(opening).encode() + b"\n", deadline, check_all, report_progress)
    except _Died as died:
        raise _name_death(died, module, folder) from None
    finally:
        _end(child)


class _FolderWatch:
    """Measures a folder from time to time."""

    def __init__(self, folder: Path, most_bytes: int) -> None:
        self._folder = folder
        self._most_bytes = most_bytes
        self._due = 0.0

    def check(self) -> None:
        """Raise `/problems/storage-full` if the folder occupies more space than allowed."""
        now = time.monotonic()
        if now < self._due:
            return
        self._due = now + MEASURE_EVERY_SECONDS
        if measure_folder(self._folder) > self._most_bytes:
            raise storage_full(f"The work needed more than {self._most_bytes >> 20} MiB of disk space.")


def measure_folder(folder: Path) -> int:
    """Return how many bytes the files in a folder occupy on the disk; sparse parts of a file count as nothing."""
    occupied, folders = 0, [str(folder)]
    while folders:
        # What the child deletes meanwhile does not count.
        with suppress(FileNotFoundError, NotADirectoryError), os.scandir(folders.pop()) as entries:
            for entry in entries:
                with suppress(FileNotFoundError):
                    occupied += entry.stat(follow_symlinks=False).st_blocks * _BLOCK_BYTES
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(entry.path)
    return occupied


def _environment(folder: Path, module: str) -> dict[str, str]:
    kept = {
        name: os.environ[name] for name in ("PATH", "LANG", "LC_ALL", "TZ", "LD_LIBRARY_PATH") if name in os.environ
    }
    return {
        **kept,
        "HOME": str(folder),
        "TMPDIR": str(folder),
        "PYTHONPATH": os.pathsep.join(find_search_path(module)),
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
        # A process that outlives the child may keep its standard error open, so this does not wait for its end.
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
    raise _Died(_wait(child, deadline), stderr)


def _send(descriptor: int, unsent: memoryview) -> memoryview:
    """Write what fits into the pipe; return what is left, which is nothing when the child has closed its end."""
    try:
        return unsent[os.write(descriptor, unsent) :]
    except BlockingIOError:
        return unsent
    except BrokenPipeError:
        return unsent[:0]


class _Lines:
    """Splits a stream into lines, in time proportional to its length, and refuses a line that is too long."""

    def __init__(self) -> None:
        self._pending = bytearray()

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        """Yield the lines that a chunk completes. Raises `Failed` for one that is too long."""
        *ended, rest = chunk.split(b"\n")
        for part in ended:
            self._pending += part
            line = bytes(self._pending)
            self._pending.clear()
            yield line
        self._pending += rest
        if len(self._pending) > LONGEST_LINE_BYTES:
            raise _internal_error("The process that did the work returned too much.")


def _read_message(
    line: bytes, module: str, report_progress: Callable[[int, str | None], None]
) -> dict[str, Any] | None:
    """Handle a message of the child: report its progress, raise its error, or return its answer."""
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
        case {"no_room": True}:
            raise storage_full()
        case {"crashed": {"error": str(error), "where": list(where)}}:
            log.error("limited_child_crashed", module=module, error=error, where=where)
            raise _internal_error("The process that did the work failed unexpectedly.")
        case {"answer": dict(answer)}:
            return answer
        case _:
            log.error("limited_child_answer_invalid", module=module)
            raise _internal_error("The process that did the work returned an answer in an unknown form.")


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


class _Died(Exception):
    """The child ended without an answer."""

    def __init__(self, return_code: int | None, stderr: bytes) -> None:
        super().__init__()
        self.return_code = return_code
        """None if it closed its output and still runs, which only code that is not ours does."""
        self.stderr = stderr


def _wait(child: subprocess.Popen[bytes], deadline: float) -> int | None:
    try:
        return child.wait(timeout=max(0.0, min(1.0, deadline - time.monotonic())))
    except subprocess.TimeoutExpired:
        return None


def _name_death(died: _Died, module: str, folder: Path) -> Failed:
    return_code = died.return_code
    if return_code is None:
        return _internal_error("The process that did the work closed its output without an answer.")
    if return_code == -signal.SIGXCPU:
        return timed_out()
    if return_code == -signal.SIGXFSZ:
        return output_too_large()
    if return_code == -signal.SIGBUS and shutil.disk_usage(folder).free < FULL_BYTES:
        # A page of a mapped file could not be written.
        return storage_full()
    if -return_code in _CRASHES or any(mark in died.stderr for mark in _MEMORY_MARKS):
        return out_of_memory(-return_code if return_code < 0 else None)
    log.error("limited_child_died", module=module, exit_code=return_code)
    how = {"signal": -return_code} if return_code < 0 else {"exit_code": return_code}
    return _internal_error("The process that did the work ended unexpectedly.", **how)


def timed_out() -> Failed:
    """Return the error of a child whose time is over."""
    return Failed(
        "/problems/timed-out",
        "Timed out",
        "The work took longer than one attempt may. Submit less at once, or allow a longer `timeout`.",
    )


def out_of_memory(signal_number: int | None = None) -> Failed:
    """Return the error of a child that needs more memory than it may use."""
    return Failed(
        "/problems/out-of-memory",
        "Out of memory",
        "The work needed more memory than one task may use. Submit less at once.",
        data={"signal": signal_number},
    )


def output_too_large() -> Failed:
    """Return the error of a child that writes a larger file than it may."""
    return Failed(
        "/problems/output-too-large",
        "Output too large",
        "The work would write a larger file than one task may. Ask for less at once.",
    )


def storage_full(detail: str = "There is no space left on the disk to do the work.") -> Failed:
    """Return the error of work that finds no space on the disk, or uses more of it than one task may."""
    return Failed("/problems/storage-full", "Storage full", detail, retryable=True)


def _internal_error(detail: str, **data: int) -> Failed:
    return Failed("/problems/internal-error", "Internal error", detail, retryable=True, data=data or None)


def _end(child: subprocess.Popen[bytes]) -> None:
    """Kill the child and all processes of its session, and close its pipes."""
    # Its number cannot belong to another process before it was waited for, so this group is its own.
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()
    for pipe in (child.stdin, child.stdout, child.stderr):
        if pipe is not None:
            with suppress(BrokenPipeError):
                pipe.close()
