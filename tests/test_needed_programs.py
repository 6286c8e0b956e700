"""The marker `needs_program`, seen from a run of pytest on a small file of tests."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TESTS = """\
import pytest

@pytest.mark.needs_program("no-such-program", debian="its-package")
def test_one(): ...

@pytest.mark.needs_program("no-such-program", debian="its-package")
def test_two(): ...

@pytest.mark.needs_program("sh", debian="dash")
def test_three(): ...
"""


@pytest.fixture
def small_suite(tmp_path: Path) -> Path:
    (tmp_path / "test_small.py").write_text(TESTS, encoding="utf-8")
    (tmp_path / "pytest.ini").write_text("[pytest]\n", encoding="utf-8")
    return tmp_path


def run_pytest(folder: Path, *arguments: str, ci: str | None) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "CI" and not name.startswith("PYTEST_")}
    environment |= {"PYTHONPATH": str(ROOT)} | ({} if ci is None else {"CI": ci})
    argv = [sys.executable, "-m", "pytest", "-q", "-p", "tests.needed_programs", "-p", "no:cacheprovider", *arguments]
    return subprocess.run(
        [*argv, str(folder)], cwd=folder, env=environment, capture_output=True, text=True, timeout=200
    )


def test_a_missing_program_skips_its_tests_and_is_named_in_the_last_lines(small_suite: Path) -> None:
    outcome = run_pytest(small_suite, "-n", "1", ci=None)

    assert outcome.returncode == 0, outcome.stdout + outcome.stderr
    *_, how_to_get, counts = outcome.stdout.splitlines()
    assert how_to_get == "2 tests need no-such-program: apt-get install its-package"
    assert counts.startswith("1 passed, 2 skipped")


def test_a_missing_program_fails_its_tests_in_ci(small_suite: Path) -> None:
    outcome = run_pytest(small_suite, ci="true")

    assert outcome.returncode == 1
    assert "no-such-program is not installed (apt-get install its-package)" in outcome.stdout
    assert "1 passed, 2 errors" in outcome.stdout
