"""Protects the memory of a process, which contains secrets and callers' files, from core files and other processes."""

from __future__ import annotations

import resource
import sys

_PR_SET_DUMPABLE = 4


def forbid_memory_dumps() -> None:
    """Forbid core files of this process and, on Linux, that others of its account read its memory (prctl(2)).

    On Linux this also makes root the owner of the process's files in `/proc`, so write those before. Signals, waiting
    and what `/proc` shows to everybody are not affected. A program that the process executes is dumpable again, but has
    no core file either.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
