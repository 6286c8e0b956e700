"""Each kind has one handler, also those of installed packages."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from shared.contracts.catalog import list_kinds
from shared.errors import ConfigurationError
from tests.kinds_packages import fresh_catalog, install_package
from workers.engine.handler_catalog import HandlerMissing, load_handlers


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The source folder of an installed package with the kind `acme.count_words`."""
    monkeypatch.syspath_prepend(tmp_path)
    with fresh_catalog():
        yield install_package(tmp_path)


def test_every_kind_has_a_handler(package: Path) -> None:
    handlers = load_handlers()

    assert set(handlers) == set(list_kinds())
    assert handlers["acme.count_words"].__module__ == "taskmill_acme.handlers.count_words"


def test_a_kind_without_a_handler_is_named(package: Path) -> None:
    (package / "handlers" / "count_words.py").unlink()

    with pytest.raises(
        HandlerMissing, match=r"acme.count_words has no handler: add the module taskmill_acme\.handlers\.count_words"
    ):
        load_handlers()


def test_a_handler_without_a_contract_is_named(package: Path) -> None:
    (package / "contracts" / "count_words.py").rename(package / "contracts" / "_count_words.py")

    with pytest.raises(HandlerMissing, match=r"has no contract: add the module taskmill_acme\.contracts\.count_words"):
        load_handlers()


def test_a_handler_module_without_its_function_is_named(package: Path) -> None:
    (package / "handlers" / "count_words.py").write_text("def do(): ...\n", encoding="utf-8")

    with pytest.raises(HandlerMissing, match=r"taskmill_acme\.handlers\.count_words has no function `handle"):
        load_handlers()


def test_a_handler_that_cannot_be_imported_is_named(package: Path) -> None:
    (package / "handlers" / "count_words.py").write_text("import no_such_module\n", encoding="utf-8")

    with pytest.raises(ConfigurationError, match=r"handlers\.count_words cannot be imported: ModuleNotFoundError"):
        load_handlers()
