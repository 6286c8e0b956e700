from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from unittest.mock import patch

import pytest

from cli.virtual_environment import SetUpFailed, set_up


def test_a_python_without_its_venv_module_names_the_package_to_install(tmp_path: Path) -> None:
    def run(argv: list[str], **arguments: object) -> subprocess.CompletedProcess[str]:
        said = "The virtual environment was not created successfully because ensurepip is not available."
        return subprocess.CompletedProcess(argv, 1, stdout=said)

    with (
        patch("cli.virtual_environment.subprocess.run", run),
        pytest.raises(SetUpFailed, match=r"ensurepip is not available(.|\n)*apt install python3\.\d+-venv"),
    ):
        set_up(tmp_path, [])

    assert not (tmp_path / ".venv").exists()


def test_the_environment_of_another_user_is_not_replaced(tmp_path: Path) -> None:
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.symlink_to("/home/someone/closed-to-others/python")
    other = (tmp_path / ".venv").stat().st_uid + 1

    with patch("os.geteuid", return_value=other), pytest.raises(SetUpFailed, match="belongs to another user"):
        set_up(tmp_path, [])

    assert python.is_symlink()


@pytest.mark.parametrize("has_environment", [False, True])
def test_a_read_only_checkout_is_named_as_such(tmp_path: Path, has_environment: bool) -> None:
    packages = tmp_path / ".venv" / "packages"
    if has_environment:
        (tmp_path / ".venv" / "bin").mkdir(parents=True)
        (tmp_path / ".venv" / "bin" / "python").symlink_to(sys.executable)
        packages.mkdir()
        (packages / "taskmill.pth").write_text("../..\n")
    (tmp_path / "requirements.lock").touch()
    before = sorted(tmp_path.rglob("*"))

    def run(argv: list[str], **arguments: object) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(argv, 0 if has_environment else 1, stdout=f"{packages}\n")

    with (
        patch("os.access", return_value=False),
        patch("cli.virtual_environment.subprocess.run", run),
        pytest.raises(SetUpFailed, match=f"{tmp_path}.* is read-only for this user"),
    ):
        set_up(tmp_path, ["requirements.lock"])

    assert sorted(tmp_path.rglob("*")) == before
