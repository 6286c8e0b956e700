"""The child's side of `workers/sandbox/limited_child.py`: limits first, then the module, then one answer.

What it imports before the work counts for every small task, so it is little.
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

KINDER_BY = 5
"""What is added to the child's niceness: leases are renewed and callers answered before pictures are made."""

_PR_SET_PDEATHSIG = 1
_PR_SET_NO_NEW_PRIVS = 38


def main() -> None:
    """Read the opening line, do the work, answer on what was standard output, and end."""
    # When the child ends is for its worker to say, which hands its work back before it ends itself.
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)
    opening = json.loads(sys.stdin.buffer.readline())
    _die_with(opening["parent"])
    # What the work prints must not mix with the answers, so that its standard output is its standard error.
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)

    def answer(message: dict[str, Any]) -> None:
        unsent = memoryview(json.dumps(message, default=str).encode() + b"\n")
        while unsent:
            unsent = unsent[answers.write(unsent) :]

    try:
        _set_limits(opening)
        module = import_module(opening["module"])
        result = module.run_in_child(
            opening["request"], lambda percent, message=None: answer({"progress": [percent, message]})
        )
        answer({"answer": result})
    except BaseException as error:
        answer(_describe(error))
    os._exit(0)


def _describe(error: BaseException) -> dict[str, Any]:
    if isinstance(error, MemoryError):
        return _failed("out-of-memory", "Out of memory", "The work needed more memory than one task may use.")
    if isinstance(error, OSError) and error.errno == errno.EFBIG:
        return _failed("output-too-large", "Output too large", "The work made a larger file than one task may.")
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return _failed("storage-full", "Storage full", "There is no room to do the work in.", retryable=True)
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


def _failed(name: str, title: str, detail: str, retryable: bool = False) -> dict[str, Any]:
    return {"failed": {"type": f"/problems/{name}", "title": title, "detail": detail, "retryable": retryable}}


def _list_places(error: BaseException) -> list[str]:
    """Give where it was raised, and not its message, which may quote what was read."""
    places, trace = [], error.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        places.append(f"{code.co_filename.rpartition('/')[2]}:{trace.tb_lineno} {code.co_name}")
        trace = trace.tb_next
    return places[-12:]


def _set_limits(opening: dict[str, Any]) -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        resource.setrlimit(resource.RLIMIT_AS, (opening["memory_bytes"], opening["memory_bytes"]))
    except (ValueError, OSError):
        # macOS knows the limit of the address space and does not let it be set.
        if sys.platform != "darwin":
            raise
    resource.setrlimit(resource.RLIMIT_CPU, (opening["cpu_seconds"], opening["cpu_seconds"] + 5))
    resource.setrlimit(resource.RLIMIT_FSIZE, (opening["file_bytes"], opening["file_bytes"]))
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
    # Python ignores the signal, and a library may then take a short file for a whole one.
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    os.nice(KINDER_BY)
    try:
        # Where the machine's memory is short, the kernel is to take the child and not the worker or the database.
        score = os.open("/proc/self/oom_score_adj", os.O_WRONLY)
        os.write(score, b"1000")
        os.close(score)
    except OSError:
        pass


def _die_with(parent: int) -> None:
    """See to it that this process ends when its worker does, also when that is killed.

    The kernel's signal comes when the thread that started the child ends; that thread waits for the child, so it ends
    first only if its process does.
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
