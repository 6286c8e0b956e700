"""The moves between states are the same in the code's table, in the database's trigger, and in its constraints."""

from __future__ import annotations

import psycopg
import pytest
from alembic.config import Config
from alembic.script import ScriptDirectory

from cli.local_stack.postgres import PostgresServer
from shared.schema_migrations import MIGRATIONS
from shared.task_states import DONE, FIRST_STATES, LIVE, MOVES, RETRIABLE, TaskStatus


@pytest.fixture
def definitions(database_url: str, postgres_server: PostgresServer) -> dict[str, str]:
    """The triggers of the migrated database by name, as Postgres writes them."""
    with psycopg.connect(database_url) as connection:
        return dict(
            connection.execute(
                "SELECT tgname, pg_get_triggerdef(oid) FROM pg_trigger WHERE tgrelid = 'tasks'::regclass"
            ).fetchall()
        )


def test_the_trigger_holds_the_same_moves_as_the_code(definitions: dict[str, str]) -> None:
    held = {word for word in definitions["tasks_move"].split("'") if ">" in word and word.replace(">", "").isalpha()}

    assert held == {f"{before}>{after}" for before, after in MOVES}


def test_the_trigger_lets_a_task_begin_in_the_first_states_alone(definitions: dict[str, str]) -> None:
    named = {word for word in definitions["tasks_first_state"].split("'") if word in set(TaskStatus)}

    assert named == FIRST_STATES


def test_a_done_task_moves_only_by_a_retry() -> None:
    assert {move for move in MOVES if move[0] in DONE} == {(before, TaskStatus.QUEUED) for before in RETRIABLE}


def test_every_state_can_be_reached_and_every_live_one_left() -> None:
    assert {after for _, after in MOVES} | FIRST_STATES == set(TaskStatus)
    assert {before for before, _ in MOVES} >= LIVE


def test_the_migrations_are_one_line_with_names_that_tell_their_order() -> None:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.set_main_option("path_separator", "os")
    revisions = list(ScriptDirectory.from_config(config).walk_revisions())
    names = [revision.path.rsplit("/", 1)[-1] for revision in reversed(revisions)]

    assert len(ScriptDirectory.from_config(config).get_heads()) == 1
    assert names == sorted(names)
