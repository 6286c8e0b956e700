"""The option `--fast`: only tests that start no server, for the inner loop of development.

    ./taskmill test --fast

A test is fast if it is in one of `FAST` but not in one of `SLOW`, and uses no fixture that starts a server. Starting a
server by other means fails the test under `--fast`, so that this choice stays true.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from cli.local_stack.server_process import ServerProcess

ROOT = Path(__file__).resolve().parent
FAST = (
    "api",
    "architecture",
    "cli/demo/test_checks.py",
    "cli/local_stack/test_data_directory.py",
    "cli/local_stack/test_owned_files.py",
    "cli/local_stack/test_plan.py",
    "shared",
    "workers",
)
SLOW = (
    "api/test_availability.py",
    "shared/storage",
    "workers/handlers/email/test_send.py",
    "workers/handlers/email/test_send_killed.py",
    "workers/handlers/files",
    "workers/handlers/reports",
    "workers/sandbox",
)
"""Within `FAST`: tests that start servers of their own, and those that start a process for nearly each test."""
SERVERS = frozenset({"broker_server", "part_server", "postgres_server", "stack"})
"""The fixtures of `tests/conftest.py` that start servers."""


def is_fast(item: pytest.Item) -> bool:
    """Return whether `--fast` runs the test."""
    path = item.path.relative_to(ROOT)
    if any(path.is_relative_to(folder) for folder in SLOW) or not any(path.is_relative_to(folder) for folder in FAST):
        return False
    return not SERVERS.intersection(getattr(item, "fixturenames", ()))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--fast", action="store_true", help="run only the tests that start no server")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--fast"):
        slow = [item for item in items if not is_fast(item)]
        config.hook.pytest_deselected(items=slow)
        items[:] = [item for item in items if is_fast(item)]


@pytest.fixture(autouse=True, scope="session")
def refuse_servers(pytestconfig: pytest.Config) -> None:
    """Fail each test that starts a server under `--fast`."""

    def refuse(server: ServerProcess, *arguments: object) -> None:
        pytest.fail(f"{type(server).__name__} is started under --fast: add the file to SLOW in tests/fast_tests.py")

    if pytestconfig.getoption("--fast"):
        pytest.MonkeyPatch().setattr(ServerProcess, "start", refuse)
