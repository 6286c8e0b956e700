"""The option `--write-failed=FILE`: the names of the tests that failed, one a line, in a form that pytest takes as arguments.

`.ci/run` runs these tests once more, alone. The option needs its `=`: pytest takes a file that follows for a place of tests, and
looks for its configuration there.
"""

from __future__ import annotations

from pathlib import Path

import pytest


class FailedTests:
    """Collects the names of the tests that failed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._names: dict[str, None] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self._names[report.nodeid] = None

    def pytest_sessionfinish(self) -> None:
        self._path.write_text("".join(f"{name}\n" for name in self._names), encoding="utf-8")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--write-failed", type=Path, metavar="FILE", help="write the names of the failed tests to a file")


def pytest_configure(config: pytest.Config) -> None:
    path: Path | None = config.getoption("--write-failed")
    # The processes of pytest-xdist send their reports to the first one.
    if path is not None and not hasattr(config, "workerinput"):
        config.pluginmanager.register(FailedTests(path))
