"""The table of moves is consistent, and the migrations form one line. `tests/shared/` compares both with the database."""

from __future__ import annotations

from pathlib import Path

from alembic.config import Config
from alembic.script import ScriptDirectory

from shared.tasks.states import DONE, FIRST_STATES, LIVE, MOVES, RETRIABLE, TaskStatus

MIGRATIONS = Path(__file__).resolve().parents[2] / "migrations"


def test_a_done_task_moves_only_by_a_retry() -> None:
    retried = {(before, TaskStatus.QUEUED) for before in RETRIABLE}
    after_retried_step = {(TaskStatus.CANCELLED, TaskStatus.SCHEDULED)}

    assert {move for move in MOVES if move[0] in DONE} == retried | after_retried_step


def test_every_state_can_be_reached_and_every_live_state_left() -> None:
    assert {after for _, after in MOVES} | FIRST_STATES == set(TaskStatus)
    assert {before for before, _ in MOVES} >= LIVE


def test_the_migrations_are_one_line_in_the_order_of_their_names() -> None:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.set_main_option("path_separator", "os")
    scripts = ScriptDirectory.from_config(config)
    names = [Path(revision.path).name for revision in reversed(list(scripts.walk_revisions()))]

    assert len(scripts.get_heads()) == 1
    assert names == sorted(names)
