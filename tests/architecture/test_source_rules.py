"""Rules of style that can be checked on the source."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests import fast_tests, scheduling

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("api", "cli", "deploy", "migrations", "shared", "taskmill_kinds", "workers")
SOURCES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
NAMES = [str(path.relative_to(ROOT)) for path in SOURCES]

VAGUE_NAME = re.compile(r"(^|_)(utils?|helpers?|commons?|managers?|misc|tools?)(_|$)")

STATEMENT = re.compile(
    r"\s*(SELECT\s|INSERT\s+INTO\s|UPDATE\s+\w+\s+SET\s|DELETE\s+FROM\s|WITH\s+\w+\s.*\sAS\s|TRUNCATE\s|LISTEN\s|NOTIFY\s"
    r"|(CREATE|ALTER|DROP)\s+(TABLE|INDEX|DATABASE|FUNCTION|TRIGGER|ROLE|VIEW)\s)",
    re.DOTALL,
)
STATEMENT_BUILDERS = {"select", "insert", "update", "delete", "text"}


@cache
def _parse(name: str) -> ast.Module:
    return ast.parse((ROOT / name).read_text(encoding="utf-8"), name)


def _may_hold_sql(name: str) -> bool:
    """Return whether a module may contain SQL. The local stack only asks its own server whether it is ready."""
    return name.startswith(("shared/queries/", "migrations/", "cli/local_stack/")) or _is_about_duckdb(name)


def _is_about_duckdb(name: str) -> bool:
    """Statements for DuckDB, which reads uploaded files: in handlers, and in what the demo, chaos and examples submit."""
    return name.startswith(
        (
            "workers/handlers/reports/",
            "shared/contracts/reports/",
            "workers/handlers/files/",
            "workers/formats/",
            "cli/demo",
            "cli/chaos/workload",
        )
    )


def _list_strings(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Yield the line and the text of each string that is no docstring. An f-string yields its pieces."""
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            yield node.lineno, node.value


def _list_imported_names(tree: ast.Module, package: str) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == package:
            yield from ((node.lineno, alias.name) for alias in node.names)


def test_sql_is_written_only_in_shared_queries() -> None:
    offences = [
        f"{name}:{line}"
        for name in NAMES
        if not _may_hold_sql(name)
        for line, text in _list_strings(_parse(name))
        if STATEMENT.match(text)
    ]

    assert offences == []


def test_statements_are_built_only_in_shared_queries() -> None:
    # Tables need SQL expressions for their constraints and partial indexes.
    offences = [
        f"{name}:{line} {imported}"
        for name in NAMES
        if not _may_hold_sql(name)
        for line, imported in _list_imported_names(_parse(name), "sqlalchemy")
        if imported in STATEMENT_BUILDERS and not (imported == "text" and name.startswith("shared/tables/"))
    ]

    assert offences == []


def test_a_query_never_commits() -> None:
    offences = [
        f"{name}:{node.lineno}"
        for name in NAMES
        if name.startswith("shared/queries/")
        for node in ast.walk(_parse(name))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in {"commit", "rollback", "begin"}
    ]

    assert offences == []


def test_there_is_no_code_in_an_init_file() -> None:
    # The package that others import is the exception: it gathers the names that they use.
    offences = [
        f"{name}:{node.lineno}"
        for name in NAMES
        if name.endswith("__init__.py") and name != "taskmill_kinds/__init__.py"
        for node in _parse(name).body
        if not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))
    ]

    assert offences == []


def test_each_module_has_a_docstring() -> None:
    without_docstring = [
        name for name in NAMES if not name.endswith("__init__.py") and not ast.get_docstring(_parse(name))
    ]

    assert without_docstring == []


def test_no_module_has_a_vague_name() -> None:
    assert [name for name in NAMES if VAGUE_NAME.search(Path(name).stem)] == []


def test_no_module_has_more_than_600_lines() -> None:
    lengths = {name: len((ROOT / name).read_text(encoding="utf-8").splitlines()) for name in NAMES}

    assert {name: lines for name, lines in lengths.items() if lines > 600 and not name.startswith("migrations/")} == {}


def test_folders_of_tests_are_not_packages() -> None:
    # With a tests/workers/__init__.py, `import workers` in a test could import the folder of tests.
    assert list((ROOT / "tests").rglob("__init__.py")) == []


@pytest.mark.parametrize("listed", [scheduling.LONG, scheduling.WITH_STACK, fast_tests.FAST, fast_tests.SLOW])
def test_lists_of_tests_name_files_and_folders_that_exist(listed: tuple[str, ...]) -> None:
    assert [name for name in listed if not (ROOT / "tests" / name.removeprefix("tests/")).exists()] == []
