"""`taskmill up --reload` sees each change of a source file."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from cli.local_stack.source_watch import list_source_folders, wait_for_change
from tests.kinds_packages import install_package

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: (folder / "old.py").write_text("changed = True\n"),
        lambda folder: (folder / "old.py").unlink(),
        lambda folder: (folder / "below" / "new.py").write_text(""),
    ],
    ids=["changed", "deleted", "added"],
)
def test_a_changed_source_file_is_found(tmp_path: Path, change: Callable[[Path], object]) -> None:
    (tmp_path / "below").mkdir()
    (tmp_path / "old.py").write_text("")

    async def change_while_watching() -> Path:
        watching = asyncio.create_task(wait_for_change([tmp_path]))
        await asyncio.sleep(0.01)
        change(tmp_path)
        return await asyncio.wait_for(watching, 60)

    assert asyncio.run(change_while_watching()).suffix == ".py"


def test_files_that_are_no_source_are_not_watched(tmp_path: Path) -> None:
    async def write_while_watching() -> None:
        watching = asyncio.create_task(wait_for_change([tmp_path]))
        await asyncio.sleep(0.01)
        (tmp_path / "notes.txt").write_text("")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(watching, 0.8)

    asyncio.run(write_while_watching())


def test_the_sources_of_installed_kinds_are_watched_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    package = install_package(tmp_path, "watched.count_words")

    folders = list_source_folders()

    assert folders == [ROOT / "api", ROOT / "shared", ROOT / "taskmill_kinds", ROOT / "workers", package]
