"""Finds the contract of every kind: `files.make_images` is the `KIND` in `shared/contracts/files/make_images.py`.

An installed package can add a family of kinds. It declares an entry point in the group `taskmill.kinds`, whose name is the
name of the family and whose value is a package with the subpackages `contracts` and `handlers`. See `docs/kinds.md`.
"""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Iterator
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Final, NamedTuple

from shared.contracts.kind import QUEUES, AnyKind, Kind
from shared.contracts.secrets import has_secrets
from shared.errors import ConfigurationError

ENTRY_POINT_GROUP: Final = "taskmill.kinds"
KIND_OR_FAMILY_NAME: Final = re.compile(r"[a-z][a-z0-9_]*")

FAMILIES: Final = tuple(sorted(m.name for m in pkgutil.iter_modules([str(Path(__file__).parent)]) if m.ispkg))
"""The families of this repository: the folders beside this module."""


class Family(NamedTuple):
    """A group of kinds, and the packages that hold a module for each of them."""

    name: str
    contracts: str
    """The package of the contracts: its module `make_images` has the `KIND` of `<name>.make_images`."""
    handlers: str
    """The package of the handlers: its module `make_images` has the function `handle` of `<name>.make_images`."""


@cache
def list_families() -> dict[str, Family]:
    """Return every family by name: those of this repository, then those of installed packages.

    Raises `ConfigurationError` when an installed package declares a family that exists already or has no valid name.
    """
    families = {name: Family(name, f"shared.contracts.{name}", f"workers.handlers.{name}") for name in FAMILIES}
    origins = dict.fromkeys(FAMILIES, "Taskmill itself")
    for entry_point in entry_points(group=ENTRY_POINT_GROUP):
        name, origin = entry_point.name, _describe_origin(entry_point)
        if KIND_OR_FAMILY_NAME.fullmatch(name) is None:
            raise ConfigurationError(
                f"{origin} declares the family {name!r} of kinds: rename its entry point in the group "
                f"{ENTRY_POINT_GROUP} to lower-case letters, digits and underscores"
            )
        if name in families:
            raise ConfigurationError(
                f"{origin} declares the family {name} of kinds, which {origins[name]} has already: "
                f"rename its entry point in the group {ENTRY_POINT_GROUP}, or uninstall the package"
            )
        families[name] = Family(name, f"{entry_point.value}.contracts", f"{entry_point.value}.handlers")
        origins[name] = origin
    return families


@cache
def list_kinds() -> dict[str, AnyKind]:
    """Return every kind by name, sorted.

    Raises `ConfigurationError` when a contract cannot be imported, has no `KIND`, or names an unknown queue.
    """
    kinds = {
        f"{family.name}.{module}": _load_kind(f"{family.contracts}.{module}")
        for family in list_families().values()
        for module in list_public_modules(family.contracts)
    }
    return dict(sorted(kinds.items()))


def find_kind(name: str) -> AnyKind | None:
    """Return the kind of that name, or None."""
    return list_kinds().get(name)


def list_public_modules(package: str) -> Iterator[str]:
    """Yield the names of the modules of a package. Modules whose names begin with `_` are helpers and are left out.

    Raises `ConfigurationError` when the package cannot be imported.
    """
    try:
        path = importlib.import_module(package).__path__
    except Exception as error:
        raise ConfigurationError(f"the package {package} cannot be imported: {_describe(error)}") from error
    yield from (module.name for module in pkgutil.iter_modules(path) if not module.name.startswith("_"))


def _load_kind(module_name: str) -> AnyKind:
    try:
        kind = getattr(importlib.import_module(module_name), "KIND", None)
    except Exception as error:
        raise ConfigurationError(f"the contract {module_name} cannot be imported: {_describe(error)}") from error
    if not isinstance(kind, Kind):
        raise ConfigurationError(f"the contract {module_name} has no KIND: set KIND = Kind(...) in it")
    if isinstance(kind.queue, str) and kind.queue not in QUEUES:
        raise ConfigurationError(
            f"the contract {module_name} names the unknown queue {kind.queue}: choose one of {', '.join(QUEUES)}"
        )
    try:
        if has_secrets(kind.params) and callable(kind.queue):
            raise ConfigurationError(f"the contract {module_name} has secrets, so it must name its queue")
    except TypeError as error:
        raise ConfigurationError(f"the contract {module_name} cannot be used: {error}") from None
    return kind


def _describe(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def _describe_origin(entry_point: EntryPoint) -> str:
    distribution = entry_point.dist
    return (
        f"the installed package {distribution.name}" if distribution is not None else f"the package {entry_point.value}"
    )
