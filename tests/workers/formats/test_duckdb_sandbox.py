"""Each limit and setting of the sandbox, read back and gone past."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import duckdb
import pytest

from workers.formats.duckdb_errors import find_resource_failure, is_spill_limit_reached
from workers.formats.duckdb_sandbox import SPILL_FOLDER, open_sandbox

MIB = 1 << 20
SORT = "SELECT i FROM range({rows}) t(i) ORDER BY hash(i)"


@pytest.fixture
def sandbox(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[duckdb.DuckDBPyConnection]:
    """A sandbox that may read `t.csv`, with 64 MiB of memory and 64 MiB of temporary storage."""
    monkeypatch.chdir(tmp_path)
    Path("t.csv").write_text("a\n1\n")
    Path("u.csv").write_text("a\n2\n")
    with open_sandbox([Path("t.csv")], memory_bytes=64 * MIB, spill_bytes=64 * MIB, threads=2) as connection:
        yield connection


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("memory_limit", "64.0 MiB"),
        ("max_temp_directory_size", "64.0 MiB"),
        ("temp_directory", SPILL_FOLDER),
        ("threads", 2),
        ("async_threads", 2),
        ("enable_external_access", False),
        ("lock_configuration", True),
        ("allowed_configs", []),
        ("autoinstall_known_extensions", False),
        ("autoload_known_extensions", False),
        ("allow_community_extensions", False),
        ("allow_unsigned_extensions", False),
        ("allow_persistent_secrets", False),
        ("secret_directory", "secrets"),
        ("python_enable_replacements", False),
        ("errors_as_json", True),
        ("TimeZone", "UTC"),
    ],
)
def test_a_setting_of_the_sandbox_is_what_was_asked_for(
    sandbox: duckdb.DuckDBPyConnection, setting: str, value: object
) -> None:
    assert sandbox.execute(f"SELECT current_setting('{setting}')").fetchall() == [(value,)]


def test_only_the_named_files_are_allowed(sandbox: duckdb.DuckDBPyConnection) -> None:
    ((allowed,),) = sandbox.execute("SELECT current_setting('allowed_paths')").fetchall()

    ((folders,),) = sandbox.execute("SELECT current_setting('allowed_directories')").fetchall()

    assert [Path(path).name for path in allowed] == ["t.csv"]
    assert [Path(path).name for path in folders] == [SPILL_FOLDER]
    assert sandbox.execute("FROM read_csv('t.csv')").fetchall() == [(1,)]
    with pytest.raises(duckdb.PermissionException):
        sandbox.execute("FROM read_csv('u.csv')")


def test_what_does_not_fit_the_memory_is_spilled(sandbox: duckdb.DuckDBPyConnection) -> None:
    sandbox.execute(SORT.format(rows=3_000_000))

    assert sandbox.fetchone() is not None
    assert any(Path(SPILL_FOLDER).iterdir())


def test_a_query_cannot_spill_more_than_the_limit(sandbox: duckdb.DuckDBPyConnection) -> None:
    with pytest.raises(duckdb.OutOfMemoryException) as caught:
        sandbox.execute(SORT.format(rows=20_000_000)).fetchone()

    assert is_spill_limit_reached(caught.value)
    assert sum(path.stat().st_size for path in Path(SPILL_FOLDER).iterdir()) <= 65 * MIB


def test_what_cannot_be_spilled_is_out_of_memory(sandbox: duckdb.DuckDBPyConnection) -> None:
    with pytest.raises(duckdb.OutOfMemoryException) as caught:
        sandbox.execute("SELECT list(i) FROM range(100_000_000) t(i)").fetchone()

    failure = find_resource_failure(caught.value)
    assert failure is not None
    assert (failure.type, failure.retryable) == ("/problems/out-of-memory", False)


@pytest.mark.parametrize(
    "statement",
    [
        "SET max_temp_directory_size = '1TB'",
        "SET memory_limit = '1TB'",
        "SET threads = 9",
        "SET temp_directory = '/tmp'",
        "SET enable_external_access = true",
        "SET allowed_directories = ['/']",
        "SET lock_configuration = false",
        "RESET max_temp_directory_size",
        "RESET memory_limit",
        "PRAGMA memory_limit = '1TB'",
    ],
)
def test_no_limit_can_be_changed_from_within(sandbox: duckdb.DuckDBPyConnection, statement: str) -> None:
    with pytest.raises(duckdb.Error, match=r"locked|cannot|Cannot"):
        sandbox.execute(statement)


@pytest.mark.parametrize(
    ("error", "problem", "retryable"),
    [
        (duckdb.IOException("Could not write file: No space left on device"), "/problems/storage-full", True),
        (duckdb.OutOfMemoryException("could not allocate block"), "/problems/out-of-memory", False),
        (duckdb.IOException(f'Could not read file "{SPILL_FOLDER}/x"'), "/problems/internal-error", True),
    ],
)
def test_an_error_of_resources_has_its_problem(error: duckdb.Error, problem: str, retryable: bool) -> None:
    failure = find_resource_failure(error)

    assert failure is not None
    assert (failure.type, failure.retryable) == (problem, retryable)
