"""Finds every contract by its path: `files.make_images` is `shared/contracts/files/make_images.py`."""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache

from shared.contracts.kind import AnyKind, Kind

FAMILIES = ("email", "files", "reports", "platform", "maintenance")


@cache
def list_kinds() -> dict[str, AnyKind]:
    """Give every kind by name, sorted. Raises `TypeError` for a contract module without a `KIND`.

    A module whose name begins with `_` is a part of others, and no kind.
    """
    kinds: dict[str, AnyKind] = {}
    for family in FAMILIES:
        package = importlib.import_module(f"shared.contracts.{family}")
        for module_info in pkgutil.iter_modules(package.__path__):
            if module_info.name.startswith("_"):
                continue
            module = importlib.import_module(f"{package.__name__}.{module_info.name}")
            kind = getattr(module, "KIND", None)
            if not isinstance(kind, Kind):
                raise TypeError(f"{module.__name__} has no KIND")
            kinds[f"{family}.{module_info.name}"] = kind
    return dict(sorted(kinds.items()))


def find_kind(name: str) -> AnyKind | None:
    """Give the kind of that name, if there is one."""
    return list_kinds().get(name)
