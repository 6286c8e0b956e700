"""Each version of a function of the database is one file, and a migration can be undone."""

from __future__ import annotations

from shared.database.schema_version import known_revisions
from shared.queries.database_functions import FUNCTIONS, define_functions, restore_functions


def test_each_file_is_named_for_its_function_and_a_revision() -> None:
    for path in FUNCTIONS.glob("*/*"):
        assert path.suffix == ".sql" and path.stem in known_revisions()
        assert f"CREATE OR REPLACE FUNCTION {path.parent.name}(" in path.read_text(encoding="utf-8")


def test_restoring_returns_the_version_before_or_drops_the_function() -> None:
    (before,) = define_functions("0009", "taskmill_follow_ends")

    assert restore_functions("0015", "taskmill_timestamp", "taskmill_follow_ends") == [
        before,
        "DROP FUNCTION taskmill_timestamp",
    ]
