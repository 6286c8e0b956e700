"""Kinds are found by path, and those of installed packages by entry point."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from shared.contracts.catalog import FAMILIES, Family, find_kind, list_families, list_kinds
from shared.errors import ConfigurationError
from tests.kinds_packages import fresh_catalog, install_package


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder from which Python imports, with a catalog that has not looked there yet."""
    monkeypatch.syspath_prepend(tmp_path)
    with fresh_catalog():
        yield tmp_path


def test_every_kind_of_this_repository_is_found_by_its_path() -> None:
    assert {name.partition(".")[0] for name in list_kinds()} >= set(FAMILIES)
    assert list(list_kinds()) == sorted(list_kinds())
    assert find_kind("files.no_such_kind") is None


def test_an_installed_package_adds_a_family(site: Path) -> None:
    install_package(site)

    kind = find_kind("acme.count_words")

    assert kind is not None
    assert (kind.title, kind.queue) == ("Count words", "files")
    assert list_families()["acme"] == Family("acme", "taskmill_acme.contracts", "taskmill_acme.handlers")


def test_a_package_cannot_replace_a_family_of_taskmill(site: Path) -> None:
    install_package(site, entry_point="files")

    with pytest.raises(
        ConfigurationError, match="taskmill-acme declares the family files of kinds, which Taskmill itself"
    ):
        list_kinds()


def test_two_packages_cannot_declare_the_same_family(site: Path) -> None:
    install_package(site)
    install_package(site / "other", "other.count_words", entry_point="acme")
    (site / "other" / "taskmill_other-0.1.0.dist-info").rename(site / "taskmill_other-0.1.0.dist-info")

    with pytest.raises(
        ConfigurationError, match=r"taskmill-(acme|other) declares the family acme .*taskmill-(acme|other)"
    ):
        list_kinds()


def test_a_family_name_that_no_kind_can_have_is_refused(site: Path) -> None:
    install_package(site, entry_point="Acme-Kinds")

    with pytest.raises(ConfigurationError, match="'Acme-Kinds'"):
        list_kinds()


def _drop_the_kind(text: str) -> str:
    return text[: text.index("KIND = ")]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_drop_the_kind, "taskmill_acme.contracts.count_words has no KIND"),
        (lambda text: text.replace('queue="files"', 'queue="fast"'), "names the unknown queue fast: choose one of "),
        (
            lambda text: "import no_such_module\n",
            "count_words cannot be imported: ModuleNotFoundError: .*no_such_module",
        ),
    ],
    ids=["no kind", "unknown queue", "missing module"],
)
def test_a_contract_that_is_not_right_is_one_clear_line(site: Path, change: Callable[[str], str], message: str) -> None:
    contract = install_package(site) / "contracts" / "count_words.py"
    contract.write_text(change(contract.read_text(encoding="utf-8")), encoding="utf-8")

    with pytest.raises(ConfigurationError, match=message) as refusal:
        list_kinds()

    assert "\n" not in str(refusal.value)


def test_a_package_without_contracts_is_named(site: Path) -> None:
    package = install_package(site)
    (package / "contracts").rename(package / "kinds")

    with pytest.raises(ConfigurationError, match=r"the package taskmill_acme\.contracts cannot be imported"):
        list_kinds()
