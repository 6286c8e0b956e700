"""`taskmill new-kind`: writes the contract, the handler and the test of a new kind. The test passes as it is.

Without a package directory, the files go to this repository, where their paths are the name of the kind. With one, they go
to a package of their own, which Taskmill finds by its entry point (`docs/kinds.md`). The files differ only in their imports.
"""

from __future__ import annotations

import keyword
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Final

from shared.contracts.catalog import ENTRY_POINT_GROUP, FAMILIES, KIND_OR_FAMILY_NAME
from shared.errors import TaskmillError

ROOT: Final = Path(__file__).resolve().parents[2]


class NewKindRefused(TaskmillError):
    """The kind cannot be made. The message says why and what to do."""


@dataclass(frozen=True)
class NewKind:
    """The files that were written, and which of them is the test."""

    files: list[Path]
    test: Path


def add_kind(name: str, root: Path = ROOT) -> NewKind:
    """Write the three files of the kind `name` (FAMILY.NAME) to the repository at `root`.

    Raises `NewKindRefused` for a name that is not valid, and when one of the files exists.
    """
    family, kind = _split_name(name)
    contracts, handlers = root / "shared" / "contracts" / family, root / "workers" / "handlers" / family
    test = root / "tests" / "workers" / "handlers" / family / f"test_{kind}.py"
    files = {
        contracts / f"{kind}.py": _fill(_CONTRACT, name, imports=_CONTRACT_IMPORTS),
        handlers / f"{kind}.py": _fill(_HANDLER, name, imports=_HANDLER_IMPORTS),
        test: _fill(_TEST, name, imports=_TEST_IMPORTS),
    }
    return _write(files | _missing_init_files(contracts, handlers), test)


def add_kind_to_package(name: str, directory: Path) -> NewKind:
    """Write the files of the kind `name` (FAMILY.NAME) to the package in `directory`, which is made if it is missing.

    A package holds one family. Raises `NewKindRefused` for a name that is not valid, a family of this repository, a
    directory that holds something else, and when one of the files exists.
    """
    family, kind = _split_name(name)
    if family in FAMILIES:
        raise NewKindRefused(
            f"the family {family} belongs to Taskmill, and a package cannot add kinds to it: choose another name"
        )
    package = directory / f"taskmill_{family}"
    project = directory / "pyproject.toml"
    if project.exists() and not package.exists():
        raise NewKindRefused(f"{directory} holds another package than taskmill_{family}: choose another directory")
    test = directory / "tests" / f"test_{kind}.py"
    contracts, handlers = package / "contracts", package / "handlers"
    files = {
        contracts / f"{kind}.py": _fill(_CONTRACT, name, imports=_PACKAGE_CONTRACT_IMPORTS),
        handlers / f"{kind}.py": _fill(_HANDLER, name, imports=_PACKAGE_HANDLER_IMPORTS),
        test: _fill(_TEST, name, imports=_PACKAGE_TEST_IMPORTS),
    }
    if not project.exists():
        files[project] = _fill(_PROJECT, name)
    return _write(files | _missing_init_files(package, contracts, handlers), test)


def _split_name(name: str) -> tuple[str, str]:
    family, _, kind = name.partition(".")
    for part in (family, kind):
        if KIND_OR_FAMILY_NAME.fullmatch(part) is None or keyword.iskeyword(part):
            raise NewKindRefused(
                f"{name} is no name of a kind: it needs the form FAMILY.NAME, such as texts.count_words, in lower-case "
                "letters, digits and underscores"
            )
    return family, kind


def _missing_init_files(*packages: Path) -> dict[Path, str]:
    return {path: "" for package in packages if not (path := package / "__init__.py").exists()}


def _write(files: dict[Path, str], test: Path) -> NewKind:
    for path in files:
        if path.exists():
            raise NewKindRefused(f"{path} exists: choose another name, or delete the file first")
    for path, text in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return NewKind(sorted(files), test)


def _fill(template: str, name: str, imports: str = "") -> str:
    family, _, kind = name.partition(".")
    words = {
        "family": family,
        "kind": kind,
        "Class": "".join(word.capitalize() for word in kind.split("_")),
        "title": kind.replace("_", " ").capitalize(),
        "group": ENTRY_POINT_GROUP,
    }
    return Template(template.replace("$imports\n", imports + "\n")).substitute(words)


_CONTRACT_IMPORTS: Final = """\
from pydantic import Field

from shared.contracts.kind import Kind, Params, Result
"""
_PACKAGE_CONTRACT_IMPORTS: Final = """\
from pydantic import Field
from taskmill_kinds import Kind, Params, Result
"""
_CONTRACT: Final = '''\
"""The contract of `$family.$kind`: what a caller submits, and what the task returns."""

from __future__ import annotations

from typing import Annotated

$imports

class ${Class}Params(Params):
    """What a caller submits."""

    text: Annotated[str, Field(min_length=1, max_length=1000, description="The text whose words are counted.")]


class ${Class}Result(Result):
    """What the task returns."""

    words: Annotated[int, Field(description="The number of words in the text.")]


KIND = Kind(
    params=${Class}Params,
    result=${Class}Result,
    title="$title",
    description="Counts the words of a text.",
    queue="files",
    uses_files=False,
    errors={"no-words": "The text has no words: submit one that has."},
)
'''

_HANDLER_IMPORTS: Final = """\
from shared.contracts.$family.$kind import ${Class}Params, ${Class}Result
from workers.handler_context import HandlerContext
from workers.outcomes import Failed
"""
_PACKAGE_HANDLER_IMPORTS: Final = """\
from taskmill_kinds import Failed, HandlerContext

from taskmill_$family.contracts.$kind import ${Class}Params, ${Class}Result
"""
_HANDLER: Final = '''\
"""Does the work of `$family.$kind`."""

from __future__ import annotations

$imports

def handle(params: ${Class}Params, context: HandlerContext) -> ${Class}Result:
    """Count the words of the text."""
    words = params.text.split()
    if not words:
        raise Failed("/problems/no-words", "No words", "The text has no words.")
    context.progress(100, "counted the words")
    return ${Class}Result(words=len(words))
'''

_TEST_IMPORTS: Final = """\
import pytest

from shared.contracts.$family.$kind import ${Class}Params, ${Class}Result
from workers.adapters.memory_context import MemoryContext
from workers.handlers.$family.$kind import handle
from workers.outcomes import Failed
"""
_PACKAGE_TEST_IMPORTS: Final = """\
import pytest
from taskmill_kinds import Failed, MemoryContext

from taskmill_$family.contracts.$kind import ${Class}Params, ${Class}Result
from taskmill_$family.handlers.$kind import handle
"""
_TEST: Final = '''\
"""Tests of `$family.$kind`."""

from __future__ import annotations

from pathlib import Path

$imports

def test_the_words_of_a_text_are_counted(tmp_path: Path) -> None:
    context = MemoryContext(tmp_path)

    result = handle(${Class}Params(text="three short words"), context)

    assert result == ${Class}Result(words=3)
    assert context.progress_calls == [(100, "counted the words")]


def test_a_text_without_words_fails(tmp_path: Path) -> None:
    with pytest.raises(Failed) as failure:
        handle(${Class}Params(text="  "), MemoryContext(tmp_path))

    assert failure.value.type == "/problems/no-words"
'''

_PROJECT: Final = """\
[build-system]
requires = ["setuptools>=80"]
build-backend = "setuptools.build_meta"

[project]
name = "taskmill-$family"
version = "0.1.0"
description = "Kinds of tasks for Taskmill."
requires-python = ">=3.11"

# Taskmill finds the package by this: the name is the family of its kinds.
[project.entry-points."$group"]
$family = "taskmill_$family"

[tool.setuptools.packages.find]
include = ["taskmill_$family*"]

[tool.pytest.ini_options]
pythonpath = ["."]
testpaths = ["tests"]
"""
