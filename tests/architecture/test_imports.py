"""The import rules: the contracts of import-linter in pyproject.toml, and the rules that go through all kinds."""

from __future__ import annotations

from pathlib import Path

import grimp
import pytest
from importlinter.cli import EXIT_STATUS_SUCCESS, lint_imports

from shared.contracts.catalog import FAMILIES, list_public_modules

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def graph() -> grimp.ImportGraph:
    return grimp.build_graph("api", "cli", "shared", "taskmill_kinds", "workers", cache_dir=None)


def test_the_contracts_of_import_linter_are_kept(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)

    status = lint_imports(no_cache=True)

    assert status == EXIT_STATUS_SUCCESS, capsys.readouterr().out


@pytest.mark.parametrize("package", ["workers.handlers", "shared.contracts"])
def test_kinds_do_not_import_each_other(graph: grimp.ImportGraph, package: str) -> None:
    modules = [
        f"{package}.{family}.{name}" for family in FAMILIES for name in list_public_modules(f"{package}.{family}")
    ]

    chains = [
        graph.find_shortest_chain(one, other)
        for one in modules
        for other in modules
        if one != other and graph.chain_exists(one, other)
    ]

    assert chains == []


def test_contracts_import_nothing_of_ours_but_contracts(graph: grimp.ImportGraph) -> None:
    allowed = {
        ("shared.contracts.catalog", "shared.errors"),
        # An action on many tasks is for those that a list with the same filter shows.
        ("shared.contracts.maintenance.bulk", "shared.tasks.filters"),
    }
    strangers = {
        (module, imported)
        for module in {"shared.contracts"} | graph.find_descendants("shared.contracts")
        for imported in graph.find_modules_directly_imported_by(module)
        if not imported.startswith("shared.contracts.")
    }

    assert strangers == allowed


def test_a_handler_imports_no_contract_but_those_of_its_family(graph: grimp.ImportGraph) -> None:
    strangers = {
        (module, imported)
        for family in FAMILIES
        for module in graph.find_descendants(f"workers.handlers.{family}")
        for imported in graph.find_modules_directly_imported_by(module)
        for other in set(FAMILIES) - {family}
        if imported.startswith(f"shared.contracts.{other}")
    }

    assert strangers == set()
