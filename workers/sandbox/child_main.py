"""The child's side of `workers/sandbox/limited_child.py`: sets its limits, runs the module, answers once, and exits.

It imports little before the work, because that time is added to every task.
"""

from __future__ import annotations

import errno
import json
import os
import resource
import signal
import sys
from importlib import import_module
from typing import Any

from shared.errors import is_no_room
from workers.sandbox.confinement import confine
from workers.sandbox.memory_dumps import forbid_memory_dumps

ADDED_NICENESS = 5
"""Children run at a lower priority, so that leases are renewed and requests answered while they work."""

MOST_OPEN_FILES = 256

_PR_SET_PDEATHSIG = 1
_PR_SET_NO_NEW_PRIVS = 38
_NO_ROOM_TEXTS = (os.strerror(errno.ENOSPC), os.strerror(errno.EDQUOT))


def main() -> None:
    """Read the request from standard input, do the work, answer on standard output, and exit."""
    # The worker decides when its child ends, after it has handed the task back.
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)
    opening = json.loads(sys.stdin.buffer.readline())
    _die_with(opening["parent"])
    # Whatever the module prints goes to standard error, so that it is not mistaken for an answer.
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)

    def answer(message: dict[str, Any]) -> None:
        unsent = memoryview(json.dumps(message, default=str).encode() + b"\n")
        while unsent:
            unsent = unsent[answers.write(unsent) :]

    try:
        _set_limits(opening)
        confine(opening["readable"], opening["listable"], opening["writable"])
        module = import_module(opening["module"])
        result = module.run_in_child(
            opening["request"], lambda percent, message=None: answer({"progress": [percent, message]})
        )
        answer({"answer": result})
    except BaseException as error:
        answer(_describe(error))
    os._exit(0)


def _describe(error: BaseException) -> dict[str, Any]:
    if _is_for_want_of_room(error):
        return {"no_room": True}
    if isinstance(error, MemoryError):
        return _failed("out-of-memory", "Out of memory", "The work needed more memory than one task may use.")
    if isinstance(error, OSError) and error.errno == errno.EFBIG:
        return _failed("output-too-large", "Output too large", "The work made a larger file than one task may.")
    from workers.outcomes import Failed

    if isinstance(error, Failed):
        return {
            "failed": {
                "type": error.type,
                "title": error.title,
                "detail": error.detail,
                "retryable": error.retryable,
                "after_seconds": error.after_seconds,
                "data": error.data,
            }
        }
    return {"crashed": {"error": type(error).__qualname__, "where": _list_places(error)}}


def _is_for_want_of_room(error: BaseException | None) -> bool:
    """Return whether a full disk or quota led to an error, also where a library or a handler replaced the first one."""
    while error is not None:
        # Libraries in C and C++ report the operating system's error as text only.
        if is_no_room(error) or any(text in str(error) for text in _NO_ROOM_TEXTS):
            return True
        error = error.__cause__ or error.__context__
    return False


def _failed(name: str, title: str, detail: str) -> dict[str, Any]:
    return {"failed": {"type": f"/problems/{name}", "title": title, "detail": detail}}


def _list_places(error: BaseException) -> list[str]:
    """Return the places where an error was raised. Its message is left out, because it may quote the file's content."""
    places, trace = [], error.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        places.append(f"{code.co_filename.rpartition('/')[2]}:{trace.tb_lineno} {code.co_name}")
        trace = trace.tb_next
    return places[-12:]


def _set_limits(opening: dict[str, Any]) -> None:
    try:
        resource.setrlimit(resource.RLIMIT_AS, (opening["memory_bytes"], opening["memory_bytes"]))
    except (ValueError, OSError):
        # macOS has the limit of the address space and does not allow to set it.
        if sys.platform != "darwin":
            raise
    resource.setrlimit(resource.RLIMIT_CPU, (opening["cpu_seconds"], opening["cpu_seconds"] + 5))
    resource.setrlimit(resource.RLIMIT_FSIZE, (opening["file_bytes"], opening["file_bytes"]))
    resource.setrlimit(resource.RLIMIT_NOFILE, (MOST_OPEN_FILES, MOST_OPEN_FILES))
    # Python ignores this signal, and a library may then take a file that is cut short for a complete one.
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    os.nice(ADDED_NICENESS)
    try:
        # If the machine runs out of memory, the kernel shall kill the child, not the worker or the database.
        score = os.open("/proc/self/oom_score_adj", os.O_WRONLY)
        os.write(score, b"1000")
        os.close(score)
    except OSError:
        pass
    forbid_memory_dumps()


def _die_with(parent: int) -> None:
    """Make this process end when its worker does, also when the worker is killed.

    The kernel sends the signal when the thread that started the child ends. That thread waits for the child, so it ends
    first only if its process ends.
    """
    if sys.platform == "linux":
        import ctypes

        libc = ctypes.CDLL(None, use_errno=True)
        libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    else:
        import threading

        threading.Thread(target=_watch, args=(parent,), daemon=True).start()
    if os.getppid() != parent:
        os._exit(1)


def _watch(parent: int) -> None:
    import time

    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)
