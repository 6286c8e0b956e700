"""The files that a limited child must read to run its module: the system's programs and libraries, Python, and packages."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

SYSTEM_PATHS = (
    *("/usr", "/lib", "/lib64", "/opt"),
    *(
        "/etc/fonts",
        "/etc/ld.so.cache",
        "/etc/ld.so.preload",
        "/etc/localtime",
        "/etc/mime.types",
        "/var/cache/fontconfig",
    ),
    *("/dev/null", "/dev/zero", "/dev/random", "/dev/urandom"),
    *(
        "/proc/self",
        "/proc/cpuinfo",
        "/proc/meminfo",
        "/proc/stat",
        "/proc/sys",
        "/sys/devices/system",
        "/sys/fs/cgroup",
    ),
)
"""What programs and libraries read of the system: code, fonts, time zones, and how large the machine is."""


def find_search_path(module: str) -> list[str]:
    """Return the folders in which a child looks for the modules that it imports."""
    # A package may be found by other means than `sys.path`, as when it is installed in editable mode.
    roots = [root for root in (_find_root(__name__), _find_root(module)) if root is not None]
    return list(dict.fromkeys([*roots, *(entry for entry in sys.path if Path(entry).is_absolute())]))


def find_program_paths(module: str) -> list[str]:
    """Return what a child must be able to read to run a module.

    Of a folder on the search path these are the packages: a checkout also contains `.env` and may contain the data directory.
    """
    return list(_find_program_paths(*find_search_path(module)))


@lru_cache(maxsize=16)
def _find_program_paths(*search_path: str) -> tuple[str, ...]:
    found = [*SYSTEM_PATHS, sys.prefix, sys.base_prefix]
    for entry in map(Path, search_path):
        # The environment of a part may contain a link to the packages of another one.
        is_whole = not entry.is_dir() or entry.name in {"site-packages", "dist-packages", "lib-dynload"}
        found += map(str, [entry] if is_whole else _list_packages(entry))
    return tuple(found)


def _list_packages(folder: Path) -> Iterator[Path]:
    for path in folder.iterdir():
        if path.suffix in {".py", ".so"} or (path / "__init__.py").exists():
            yield path


def _find_root(module: str) -> str | None:
    """Return the folder from which the module's top-level package can be imported, None if there is no such package."""
    spec = find_spec(module.partition(".")[0])
    if spec is None:
        return None
    if spec.submodule_search_locations:
        return str(Path(next(iter(spec.submodule_search_locations))).resolve().parent)
    return str(Path(spec.origin).resolve().parent) if spec.origin else None
