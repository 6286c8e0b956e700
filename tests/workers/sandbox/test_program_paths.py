"""What a limited child may read of programs and packages."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from workers.sandbox.program_paths import find_program_paths


def test_packages_behind_a_link_of_the_environment_are_readable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The local stack makes such an environment for its account, where that cannot reach this Python.
    packages, environment = tmp_path / "packages", tmp_path / "environment"
    packages.mkdir()
    (environment / "lib").mkdir(parents=True)
    (environment / "lib" / "site-packages").symlink_to(packages)
    monkeypatch.setattr(sys, "prefix", str(environment))
    monkeypatch.setattr(sys, "path", [*sys.path, str(environment / "lib" / "site-packages")])

    assert str(packages) in find_program_paths("workers.sandbox.child_main")
