"""`taskmill new-kind` writes files that pass as they are, into a checkout or a package."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cli.development.new_kind import NewKindRefused, add_kind, add_kind_to_package

ROOT = Path(__file__).resolve().parents[3]
COPIED = ("cli", "shared", "taskmill_kinds", "workers", "tests/architecture/test_kinds.py", "tests/needed_programs.py")
"""What a checkout needs for the tests of one kind."""


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the sources, to which a kind can be added."""
    checkout = tmp_path_factory.mktemp("checkout")
    for name in COPIED:
        source, target = ROOT / name, checkout / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(source, target)
    shutil.copytree(
        ROOT / "tests" / "workers" / "handlers",
        checkout / "tests" / "workers" / "handlers",
        ignore=lambda folder, names: [name for name in names if name.endswith(".pyc") or name == "data"],
    )
    shutil.copy2(ROOT / "pyproject.toml", checkout)
    return checkout


def run_python(folder: Path, *arguments: str, path: Path = ROOT) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(path), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    argv = [sys.executable, "-P", "-m", *arguments]
    return subprocess.run(argv, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)


def test_a_new_kind_in_the_checkout_passes_every_rule_for_kinds(checkout: Path) -> None:
    made = add_kind("texts.count_words", checkout)

    assert [str(path.relative_to(checkout)) for path in made.files if path.name != "__init__.py"] == [
        "shared/contracts/texts/count_words.py",
        "tests/workers/handlers/texts/test_count_words.py",
        "workers/handlers/texts/count_words.py",
    ]
    run = run_python(checkout, "pytest", "-q", str(made.test), "tests/architecture/test_kinds.py", path=checkout)
    assert run.returncode == 0, run.stdout + run.stderr
    paths = [str(path) for path in made.files]
    for check in (("ruff", "check", *paths), ("ruff", "format", "--check", *paths)):
        assert (run := run_python(checkout, *check)).returncode == 0, run.stdout


def test_a_new_kind_in_a_package_passes_its_test(tmp_path: Path) -> None:
    add_kind_to_package("acme.count_words", tmp_path / "kinds")

    run = run_python(tmp_path / "kinds", "pytest", "-q")

    assert run.returncode == 0, run.stdout + run.stderr
    assert "2 passed" in run.stdout


def test_a_second_kind_joins_the_package(tmp_path: Path) -> None:
    add_kind_to_package("acme.count_words", tmp_path)

    made = add_kind_to_package("acme.count_lines", tmp_path)

    assert [str(path.relative_to(tmp_path)) for path in made.files] == [
        "taskmill_acme/contracts/count_lines.py",
        "taskmill_acme/handlers/count_lines.py",
        "tests/test_count_lines.py",
    ]


@pytest.mark.parametrize("name", ["count_words", "texts.", ".count", "Texts.count", "texts.count.words", "texts.class"])
def test_a_name_that_no_kind_can_have_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(NewKindRefused, match=r"FAMILY\.NAME"):
        add_kind(name, tmp_path)


def test_a_file_that_exists_is_never_overwritten(tmp_path: Path) -> None:
    made = add_kind("texts.count_words", tmp_path)
    made.test.write_text("mine")

    with pytest.raises(NewKindRefused, match="exists"):
        add_kind("texts.count_words", tmp_path)

    assert made.test.read_text() == "mine"


def test_a_package_cannot_take_a_family_of_taskmill(tmp_path: Path) -> None:
    with pytest.raises(NewKindRefused, match="the family files belongs to Taskmill"):
        add_kind_to_package("files.count_words", tmp_path)


def test_a_package_holds_one_family(tmp_path: Path) -> None:
    add_kind_to_package("acme.count_words", tmp_path)

    with pytest.raises(NewKindRefused, match="another package than taskmill_other"):
        add_kind_to_package("other.count_words", tmp_path)
