"""`taskmill test`: all the tests, on all cores."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[2]


def run_tests(arguments: Sequence[str]) -> int:
    """Run pytest in the checkout with these arguments and answer its exit code. The last line is pytest's summary.

    The tests of one file stay together, as they share the servers that their module starts, and files begin in the order
    in which they were collected, the long ones first. `-n` among the arguments decides otherwise how many processes there
    are.
    """
    argv = [sys.executable, "-m", "pytest"]
    if not any(argument == "-n" or argument.startswith(("-n", "--numprocesses")) for argument in arguments):
        argv += ["-n", str(os.cpu_count() or 1), "--dist", "loadfile", "--no-loadscope-reorder"]
        # What has ended one process would end each that takes its place.
        argv += ["--max-worker-restart", "1"]
    # Hundreds of interpreters are started, none of which should compile once more what all of them import.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return subprocess.run([*argv, *arguments], cwd=_ROOT, env=environment).returncode
