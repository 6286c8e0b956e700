"""`taskmill stop` ends what runs on a data directory, and `taskmill reset` deletes what a stack has stored there."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cli.local_stack.data_directory import DataDirectory, is_in_use
from cli.local_stack.stop_and_reset import reset_data_directory, stop_stack
from shared.errors import ConfigurationError

HOLD = """\
import sys, signal
from pathlib import Path
from cli.local_stack.data_directory import DataDirectory
with DataDirectory(Path(sys.argv[1])):
    print("ready", flush=True)
    signal.pause()
"""


@contextmanager
def running_stack(data_dir: Path) -> Iterator[subprocess.Popen[str]]:
    """Hold a data directory as a stack does, in a process that ends at SIGTERM."""
    with subprocess.Popen([sys.executable, "-c", HOLD, data_dir], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        try:
            yield process
        finally:
            process.kill()


@pytest.fixture
def stopped_stack(tmp_path: Path) -> Path:
    """A data directory on which a stack has run."""
    with DataDirectory(tmp_path / "data") as directory:
        directory.secret("mark")
        (directory.folder("objects") / "one").write_bytes(b"1")
        (directory.path / "api_key").write_text("key")
        return directory.path


def agree(question: str) -> bool:
    return True


def test_a_running_stack_is_stopped(tmp_path: Path) -> None:
    with running_stack(tmp_path) as process:
        assert stop_stack(tmp_path)

        assert not is_in_use(tmp_path)
        assert process.wait(timeout=60) == -15


def test_nothing_is_stopped_where_no_stack_runs(stopped_stack: Path, tmp_path: Path) -> None:
    # The pid of the last run is still in the lock; another process may have it now.
    assert not stop_stack(stopped_stack)
    assert not stop_stack(tmp_path / "missing")


def test_a_reset_deletes_what_the_stack_has_stored(stopped_stack: Path) -> None:
    assert reset_data_directory(stopped_stack, agree)

    assert [path.name for path in stopped_stack.iterdir()] == ["lock"]
    assert not reset_data_directory(stopped_stack, agree)


def test_a_reset_leaves_the_files_of_others(stopped_stack: Path) -> None:
    (stopped_stack / "thesis.txt").write_text("mine")

    assert reset_data_directory(stopped_stack, agree)

    assert (stopped_stack / "thesis.txt").read_text() == "mine"


def test_a_reset_asks_first_and_names_the_directory(stopped_stack: Path) -> None:
    questions: list[str] = []

    def refuse(question: str) -> bool:
        questions.append(question)
        return False

    assert not reset_data_directory(stopped_stack, refuse)

    assert str(stopped_stack) in questions[0]
    assert (stopped_stack / "api_key").exists()


def test_a_reset_is_refused_while_the_stack_runs(stopped_stack: Path) -> None:
    with running_stack(stopped_stack), pytest.raises(ConfigurationError, match="Another Taskmill"):
        reset_data_directory(stopped_stack, agree)

    assert (stopped_stack / "objects" / "one").exists()


def test_a_folder_that_is_no_data_directory_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "objects").mkdir()

    assert not reset_data_directory(tmp_path, agree)

    assert [path.name for path in tmp_path.iterdir()] == ["objects"]
