"""What log lines contain, and what they do not."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.conftest import ROOT

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
def test_an_error_is_logged_without_the_values_of_variables(log_format: str) -> None:
    logged = run(PROGRAM.replace("FORMAT", repr(log_format)))

    assert "unexpected_error" in logged
    assert "RuntimeError: it failed" in logged
    assert "hunter2" not in logged


LIBRARIES = """
import logging, warnings
from shared.log_setup import set_up_logs
from shared.settings import Settings

set_up_logs(Settings(log_format="json"), "worker")
logging.getLogger("celery.worker").warning("it %s", "stopped")
logging.getLogger("celery.worker").info("it runs")
warnings.warn("it is old")
"""


def test_lines_of_libraries_have_the_same_format() -> None:
    lines = [json.loads(line) for line in run(LIBRARIES).splitlines()]

    assert [(line["logger"], line["level"], line["part"]) for line in lines] == [
        ("celery.worker", "warning", "worker"),
        ("py.warnings", "warning", "worker"),
    ]
    assert lines[0]["event"] == "it stopped"
    assert all(line["timestamp"].endswith("Z") for line in lines)


def run(program: str) -> str:
    """Run a program, and return what it writes to standard error."""
    return subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True).stderr
