"""Which test runs when, and in which process of pytest-xdist.

The longest files run first. Each file runs in one process, and all tests that use the local stack run in one process, so
that the stack is started once.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from xdist.scheduler import LoadFileScheduling  # type: ignore[import-untyped] # xdist is without types.

ROOT = Path(__file__).resolve().parent
LONG = (
    "cli/local_stack/test_stack.py",
    "journeys",
    "workers/engine",
    "benchmarks",
    "cli",
    "faults",
    "workers",
    "deploy",
    "api/openapi",
    "shared/storage",
)
"""Folders and files whose tests take long, mostly because they start processes; the longest first."""
WITH_STACK = ("tests/cli/local_stack/test_stack.py", "tests/journeys/")
"""Files and folders whose tests use the fixture `stack`. They run in one process, so that the stack is started once."""


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the longest tests first, so that no process still runs them when the others have ended."""

    def rank(item: pytest.Item) -> int:
        return next((place for place, long in enumerate(LONG) if item.path.is_relative_to(ROOT / long)), len(LONG))

    items.sort(key=rank)


class FileScheduling(LoadFileScheduling):  # type: ignore[misc] # The same.
    """Runs the tests of a file in one process of pytest-xdist, and all tests that use the local stack in another."""

    def _split_scope(self, nodeid: str) -> str:
        file: str = super()._split_scope(nodeid)
        return "stack" if file.startswith(WITH_STACK) else file

    def remove_node(self, node: object) -> str | None:
        """Remove a process, and return the test that it was running when it crashed, if any.

        Other processes run what is left of its files, without that test. pytest-xdist 3.8 would also put finished files back
        into the queue, and the process that replaces the crashed one would wait forever after it received one of them.
        """
        files = self.assigned_work.pop(node)
        crashed = next((test for tests in files.values() for test, done in tests.items() if not done), None)
        for tests in files.values():
            if crashed in tests:
                tests[crashed] = True
        self.workqueue.update({file: tests for file, tests in files.items() if not all(tests.values())})
        for other in self.assigned_work:
            self._reschedule(other)
        return crashed


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> FileScheduling | None:
    """Return the scheduler for `--dist loadfile`, which `./taskmill test` chooses."""
    return FileScheduling(config, log) if config.getvalue("dist") == "loadfile" else None
