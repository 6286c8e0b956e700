"""Logs tell what failed, and nothing of what it failed on."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import structlog
from shared.log_setup import set_up_logs
from shared.settings import Settings

set_up_logs(Settings(log_format=FORMAT), "api")

def fail(password):
    raise RuntimeError("it failed")

try:
    fail("hunter" + "2")
except RuntimeError as error:
    structlog.get_logger().error("unexpected_error", exc_info=error)
"""


@pytest.mark.parametrize("log_format", ["console", "json"])
def test_an_error_is_logged_without_the_values_that_it_happened_on(log_format: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.replace("FORMAT", repr(log_format))],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
    )

    assert "unexpected_error" in done.stderr
    assert "RuntimeError: it failed" in done.stderr
    assert "hunter2" not in done.stderr
