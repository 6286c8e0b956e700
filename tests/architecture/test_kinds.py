"""The name of a kind is the path of its contract, handler and test, and no param has the name of an option."""

from __future__ import annotations

import ast
import importlib
import inspect
import typing
from pathlib import Path

import pytest

from shared.contracts.catalog import FAMILIES, list_kinds
from shared.tasks.options import OPTION_NAMES

ROOT = Path(__file__).resolve().parents[2]


def _list_public_modules(folder: Path) -> set[str]:
    return {path.stem for path in folder.glob("*.py") if not path.stem.startswith("_")}


@pytest.mark.parametrize("family", FAMILIES)
def test_each_contract_of_a_family_has_a_handler(family: str) -> None:
    contracts = _list_public_modules(ROOT / "shared" / "contracts" / family)
    handlers = _list_public_modules(ROOT / "workers" / "handlers" / family)

    assert handlers == contracts


def test_the_families_are_the_folders() -> None:
    for package in ("shared/contracts", "workers/handlers"):
        folders = {path.parent.name for path in (ROOT / package).glob("*/*.py")}
        assert folders == set(FAMILIES), package


@pytest.mark.parametrize("family", FAMILIES)
def test_no_test_is_left_of_a_deleted_kind(family: str) -> None:
    kinds = {kind.split(".")[1] for kind in list_kinds() if kind.startswith(f"{family}.")}
    helpers = {path.stem.lstrip("_") for path in (ROOT / "workers" / "handlers" / family).glob("_*.py")}
    subjects = {
        path.stem.removeprefix("test_") for path in (ROOT / "tests" / "workers" / "handlers" / family).glob("test_*.py")
    }

    strays = {
        subject
        for subject in subjects
        if subject not in helpers and not any(subject == kind or subject.startswith(f"{kind}_") for kind in kinds)
    }

    assert strays == set()


def test_every_contract_module_is_a_kind() -> None:
    modules = {f"{family}.{name}" for family in FAMILIES for name in _list_public_modules(_contracts_folder(family))}

    assert set(list_kinds()) == modules


@pytest.mark.parametrize("kind", list_kinds())
def test_a_kind_has_tests(kind: str) -> None:
    family, name = kind.split(".")
    path = ROOT / "tests" / "workers" / "handlers" / family / f"test_{name}.py"

    assert path.is_file(), f"{path.relative_to(ROOT)} is missing"
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert any(isinstance(node, ast.FunctionDef) and node.name.startswith("test_") for node in ast.walk(tree))


@pytest.mark.parametrize("kind", list_kinds())
def test_a_handler_takes_the_params_and_returns_the_result_of_its_contract(kind: str) -> None:
    contract = list_kinds()[kind]
    handle = importlib.import_module(f"workers.handlers.{kind}").handle
    annotations = typing.get_type_hints(handle)
    parameters = list(inspect.signature(handle).parameters)

    assert parameters == ["params", "context"]
    assert annotations["params"] is contract.params
    assert annotations["return"] is contract.result


@pytest.mark.parametrize("kind", list_kinds())
def test_no_param_has_the_name_of_an_option(kind: str) -> None:
    params = list_kinds()[kind].params
    names = set(params.model_fields) | {str(info.alias) for info in params.model_fields.values() if info.alias}

    assert names & OPTION_NAMES == set()


@pytest.mark.parametrize("kind", list_kinds())
def test_every_kind_and_param_has_a_description(kind: str) -> None:
    contract = list_kinds()[kind]

    assert contract.title
    assert contract.description.endswith(".")
    assert [name for name, info in contract.params.model_fields.items() if not info.description] == []


def _contracts_folder(family: str) -> Path:
    return ROOT / "shared" / "contracts" / family
