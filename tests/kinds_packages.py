"""Small packages of kinds, installed into a folder as pip would install them."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from cli.development.new_kind import add_kind_to_package
from shared.contracts.catalog import ENTRY_POINT_GROUP, list_families, list_kinds


def install_package(folder: Path, kind: str = "acme.count_words", *, entry_point: str | None = None) -> Path:
    """Make the package of a kind in `folder`, with the metadata that an installer writes, and return its source folder.

    `entry_point` is the name of its entry point, by default the family of the kind.
    """
    family = kind.partition(".")[0]
    add_kind_to_package(kind, folder)
    information = folder / f"taskmill_{family}-0.1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text(f"Metadata-Version: 2.1\nName: taskmill-{family}\nVersion: 0.1.0\n")
    declared = f"[{ENTRY_POINT_GROUP}]\n{entry_point or family} = taskmill_{family}\n"
    (information / "entry_points.txt").write_text(declared)
    return folder / f"taskmill_{family}"


@contextmanager
def fresh_catalog() -> Iterator[None]:
    """Have the catalog look for packages again, and forget afterwards what it found and imported."""
    caches: tuple[Callable[[], None], ...] = (list_families.cache_clear, list_kinds.cache_clear)
    before = set(sys.modules)
    for clear in caches:
        clear()
    importlib.invalidate_caches()
    try:
        yield
    finally:
        for clear in caches:
            clear()
        for name in set(sys.modules) - before:
            if name.startswith("taskmill_") and not name.startswith("taskmill_kinds"):
                del sys.modules[name]
