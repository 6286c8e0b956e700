"""`taskmill test`: runs the tests in several processes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[2]


def run_tests(arguments: Sequence[str]) -> int:
    """Run pytest in the checkout with these arguments and return its exit code. The last line is the summary of pytest.

    `tests/conftest.py` decides which tests run in one process, and orders them, the longest first. `-n` in the arguments
    sets the number of processes. By default there are two more than cores, because many tests wait for other processes; those
    of `--fast` do not, and there is one process for each core.
    """
    argv = [sys.executable, "-m", "pytest"]
    if not any(argument == "-n" or argument.startswith(("-n", "--numprocesses")) for argument in arguments):
        argv += [
            "-n",
            str((os.cpu_count() or 1) + (0 if "--fast" in arguments else 2)),
            "--dist",
            "loadfile",
            "--no-loadscope-reorder",
        ]
        # A test that ends its process would end each process that replaces it.
        argv += ["--max-worker-restart", "1"]
    # The tests start hundreds of interpreters, which should not all compile the same modules again.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return subprocess.run([*argv, *arguments], cwd=_ROOT, env=environment).returncode
