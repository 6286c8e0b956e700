"""The marker `needs_program`: tests that call a program which the hashed locks do not install.

    @pytest.mark.needs_program("nginx", debian="nginx-light")
    @pytest.mark.needs_program("openapi-typescript", install="tests/api/openapi/generators/install")

Where the program is missing, the test is skipped, and the last lines of the run name the program and the command that
installs it. Where the environment variable `CI` is set, the test fails instead, so that CI never loses a test unnoticed.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Final, NamedTuple

import pytest

_PROPERTY = "missing program"


GENERATORS: Final = Path(__file__).parents[1] / ".generators"
"""Where `tests/api/openapi/generators/install` installs programs."""


class NeededProgram(NamedTuple):
    """A program, and the command that installs it."""

    name: str
    how_to_get: str


def find_program(name: str) -> str | None:
    """Return the path of a program, or None. Servers are in /usr/sbin, which is not in the PATH of every account.

    An npm package without a command, which a program of a test imports, is found by the name of its folder.
    """
    package = GENERATORS / "node_modules" / name
    folders = ["/usr/sbin", "/sbin", str(GENERATORS / "bin"), str(GENERATORS / "node_modules" / ".bin")]
    found = shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", os.defpath), *folders]))
    return str(package) if found is None and package.is_dir() else found


def list_missing_programs(item: pytest.Item) -> list[NeededProgram]:
    """Return the programs that the test's markers name and this machine does not have."""
    needed = [
        NeededProgram(name, marker.kwargs.get("install") or f"apt-get install {marker.kwargs['debian']}")
        for marker in item.iter_markers("needs_program")
        for name in marker.args
    ]
    return [program for program in needed if find_program(program.name) is None]


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers",
        "needs_program(name, debian=package or install=command): skip where the program is missing; fail where CI is set",
    )


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    missing = list_missing_programs(item)
    if not missing:
        return
    reason = "; ".join(f"{program.name} is not installed ({program.how_to_get})" for program in missing)
    if os.environ.get("CI"):
        pytest.fail(f"{reason}: in CI every test must run", pytrace=False)
    # Properties also reach the summary from the processes of pytest-xdist, which can send plain lists, but no named tuples.
    item.user_properties.extend((_PROPERTY, list(program)) for program in missing)
    pytest.skip(reason)


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print one line for each missing program, with the number of tests that were skipped for it."""
    skipped: dict[NeededProgram, int] = {}
    for report in terminalreporter.getreports("skipped"):
        for name, value in report.user_properties:
            if name == _PROPERTY:
                program = NeededProgram(*value)
                skipped[program] = skipped.get(program, 0) + 1
    if skipped:
        terminalreporter.section("tests skipped because a program is missing", sep="-")
    for program, count in sorted(skipped.items()):
        tests = "1 test needs" if count == 1 else f"{count} tests need"
        terminalreporter.line(f"{tests} {program.name}: {program.how_to_get}")
