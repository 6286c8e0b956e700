"""Processes whose memory cannot be dumped."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
SCRIPT = """
import ctypes, resource, subprocess, sys
from workers.sandbox.memory_dumps import forbid_memory_dumps
PR_GET_DUMPABLE = 3
forbid_memory_dumps()
subprocess.run([sys.executable, "-S", "-c", ""], check=True)
print(ctypes.CDLL(None).prctl(PR_GET_DUMPABLE, 0, 0, 0, 0), *resource.getrlimit(resource.RLIMIT_CORE))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has the flag")
def test_memory_dumps_are_forbidden_and_programs_still_start() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    )

    assert done.stdout.split() == ["0", "0", "0"]
