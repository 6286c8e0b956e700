"""How the tests are distributed and what is written about failures, seen from a run of pytest on small files of tests."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PASSING = "def test_one(): ...\ndef test_two(): ...\ndef test_three(): ...\n"
CRASHING = """\
import os, time

def test_before(): ...

def test_crashes():
    time.sleep(1)  # until the other process has finished all other files
    os._exit(1)

def test_after(): ...

def test_fails():
    assert "a name with spaces" == ""
"""


def test_tests_of_a_crashed_process_still_run_and_failures_are_written(tmp_path: Path) -> None:
    # Enough files that the process that crashes has finished one before.
    for name in "abcdef":
        (tmp_path / f"test_{name}.py").write_text(PASSING, encoding="utf-8")
    (tmp_path / "test_g.py").write_text(CRASHING, encoding="utf-8")
    (tmp_path / "pytest.ini").write_text("[pytest]\n", encoding="utf-8")
    failed = tmp_path / "failed"
    plugins = ["-p", "tests.scheduling", "-p", "tests.failed_tests", "-p", "no:cacheprovider"]
    options = ["-n", "2", "--dist", "loadfile", "--no-loadscope-reorder", "--max-worker-restart", "1"]

    outcome = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", *plugins, *options, "--write-failed", str(failed), str(tmp_path)],
        cwd=tmp_path,
        env={name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
        | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=200,
    )

    assert "2 failed, 20 passed" in outcome.stdout, outcome.stdout + outcome.stderr
    assert failed.read_text().splitlines() == ["test_g.py::test_crashes", "test_g.py::test_fails"]
