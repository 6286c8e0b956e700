"""`taskmill up --reload`: finds out when a source file of the API or the workers has changed."""

from __future__ import annotations

import asyncio
import importlib.util
from collections.abc import Iterable
from importlib.metadata import entry_points
from pathlib import Path
from typing import Final

_PROJECT: Final = Path(__file__).resolve().parents[2]
_PACKAGES: Final = ("api", "shared", "taskmill_kinds", "workers")
_POLL_SECONDS: Final = 0.5


def list_source_folders() -> list[Path]:
    """Return the folders of the code that the API and the workers import, with those of installed packages of kinds."""
    # The catalog needs pydantic, which a stack that does not reload need not import.
    from shared.contracts.catalog import ENTRY_POINT_GROUP

    folders = [_PROJECT / package for package in _PACKAGES]
    for entry_point in entry_points(group=ENTRY_POINT_GROUP):
        spec = importlib.util.find_spec(entry_point.value)
        folders += map(Path, (spec.submodule_search_locations or ()) if spec else ())
    return folders


async def wait_for_change(folders: Iterable[Path]) -> Path:
    """Return a Python file that was changed, added or deleted in the folders since this was called."""
    folders = list(folders)
    before = _read_times(folders)
    while True:
        await asyncio.sleep(_POLL_SECONDS)
        after = _read_times(folders)
        if changed := {path for path, _ in before.items() ^ after.items()}:
            return min(changed)


def _read_times(folders: list[Path]) -> dict[Path, int]:
    times = {}
    for folder in folders:
        for path in folder.rglob("*.py"):
            try:
                times[path] = path.stat().st_mtime_ns
            except FileNotFoundError:
                # It was deleted in the meantime.
                continue
    return times
