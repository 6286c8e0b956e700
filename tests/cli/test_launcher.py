"""The launcher `taskmill`, in a small checkout whose locks name one wheel that is built here, or nothing."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
COMMAND = """\
import sys
import sample_of_the_lock
print(sample_of_the_lock.VERSION, sys.argv[1:])
"""


def make_wheel(directory: Path, version: str) -> tuple[Path, str]:
    """Build a wheel of one module, the same for each call, and return its path and its SHA-256."""
    path = directory / f"sample_of_the_lock-{version}-py3-none-any.whl"
    information = f"sample_of_the_lock-{version}.dist-info"
    contents = {
        "sample_of_the_lock.py": f"VERSION = '{version}'\n",
        f"{information}/METADATA": f"Metadata-Version: 2.1\nName: sample_of_the_lock\nVersion: {version}\n",
        f"{information}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{information}/RECORD": "",
    }
    with zipfile.ZipFile(path, "w") as wheel:
        for name, content in contents.items():
            # A time of its own, the default, would change the digest, and what is installed would be installed again.
            wheel.writestr(zipfile.ZipInfo(name), content)
    return path, hashlib.sha256(path.read_bytes()).hexdigest()


def write_lock(checkout: Path, version: str, digest: str | None = None) -> None:
    wheel, right_digest = make_wheel(checkout, version)
    line = f"sample_of_the_lock @ {wheel.as_uri()} --hash=sha256:{digest or right_digest}\n"
    (checkout / "requirements.lock").write_text(line)


def run(launcher: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    with start(launcher, *arguments, **environment) as process:
        output, errors = process.communicate(timeout=120)
    return subprocess.CompletedProcess(arguments, process.returncode, output, errors)


def start(launcher: Path, *arguments: str, **environment: str) -> subprocess.Popen[str]:
    python = str(Path(sys.base_prefix) / "bin" / "python3")
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    return subprocess.Popen(
        [launcher, *arguments],
        env={**inherited, "TASKMILL_PYTHON": python, "PIP_NO_INDEX": "1", **environment},
        cwd="/",
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    deep = tmp_path_factory.mktemp("launcher") / ("deep" * 20) / ("deeper" * 15) / "a path with a space"
    (deep / "cli").mkdir(parents=True)
    shutil.copy2(ROOT / "taskmill", deep / "taskmill")
    shutil.copy2(ROOT / "cli" / "virtual_environment.py", deep / "cli" / "virtual_environment.py")
    (deep / "cli" / "__init__.py").touch()
    (deep / "cli" / "main.py").write_text(COMMAND)
    (deep / "requirements-dev.lock").write_text("# Nothing.\n")
    yield deep
    shutil.rmtree(deep, ignore_errors=True)


@pytest.fixture
def installed(checkout: Path) -> Path:
    """The checkout, with version 1.0 installed."""
    write_lock(checkout, "1.0")
    assert run(checkout / "taskmill").returncode == 0
    return checkout


def test_two_runs_at_once_make_a_broken_environment_again_and_both_work(checkout: Path) -> None:
    write_lock(checkout, "1.0")
    shutil.rmtree(checkout / ".venv", ignore_errors=True)
    (checkout / ".venv" / "bin").mkdir(parents=True)
    (checkout / ".venv" / "bin" / "python").symlink_to("/nowhere/python3")

    both = [start(checkout / "taskmill", "up", "--port", "0"), start(checkout / "taskmill", "up", "--port", "0")]
    outcomes = [process.communicate(timeout=120) for process in both]

    assert [process.returncode for process in both] == [0, 0]
    assert [output for output, _ in outcomes] == ["1.0 ['up', '--port', '0']\n"] * 2
    assert sum("making .venv" in errors for _, errors in outcomes) == 1


def test_a_later_run_prints_only_the_output_of_the_command(installed: Path) -> None:
    outcome = run(installed / "taskmill", "x y", "")

    assert (outcome.stdout, outcome.stderr) == ("1.0 ['x y', '']\n", "")


def test_the_launcher_can_be_called_through_a_link(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "first").symlink_to(installed / "taskmill")
    (tmp_path / "second").symlink_to("first")

    assert run(tmp_path / "second").stdout == "1.0 []\n"


def test_the_command_for_tests_installs_their_lock_too(installed: Path) -> None:
    (installed / ".venv" / ".installed-requirements-dev.lock").unlink(missing_ok=True)

    first, second = run(installed / "taskmill", "test"), run(installed / "taskmill", "test")

    assert "requirements-dev.lock" in first.stderr
    assert second.stderr == ""


def test_a_checkout_can_be_moved(installed: Path, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    installed.rename(moved)
    try:
        outcome = run(moved / "taskmill")
    finally:
        moved.rename(installed)

    assert (outcome.stdout, outcome.stderr) == ("1.0 []\n", "")


def test_a_changed_lock_is_installed_at_the_next_run(installed: Path) -> None:
    write_lock(installed, "2.0")

    outcome = run(installed / "taskmill")

    assert outcome.stdout == "2.0 []\n"
    assert "making .venv" not in outcome.stderr


def test_a_package_with_a_wrong_hash_is_refused_at_every_run(installed: Path) -> None:
    write_lock(installed, "3.0", digest="0" * 64)

    for _ in range(2):
        outcome = run(installed / "taskmill")
        assert outcome.returncode == 1
        assert "requirements.lock could not be installed" in outcome.stderr
        assert outcome.stdout == ""

    write_lock(installed, "3.0")
    assert run(installed / "taskmill").stdout == "3.0 []\n"


def test_a_python_that_is_too_old_is_named(installed: Path, tmp_path: Path) -> None:
    write_lock(installed, "4.0")
    old = tmp_path / "python-old"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)

    outcome = run(installed / "taskmill", TASKMILL_PYTHON=str(old))

    assert outcome.returncode == 1
    assert f"TASKMILL_PYTHON ({old}) is not a Python 3.11 or newer" in outcome.stderr


def test_without_a_python_the_launcher_says_what_to_install(installed: Path, tmp_path: Path) -> None:
    write_lock(installed, "5.0")
    tools = tmp_path / "bin"
    tools.mkdir()
    for tool in ("sh", "dirname", "readlink", "cmp"):
        (tools / tool).symlink_to(shutil.which(tool) or tool)

    outcome = run(installed / "taskmill", PATH=str(tools), TASKMILL_PYTHON="")

    assert outcome.returncode == 1
    assert "there is no Python 3.11 or newer" in outcome.stderr
