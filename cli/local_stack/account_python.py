"""Finds a Python with which the unprivileged account can run the parts, and makes one where it cannot reach this one.

A Python below /root, as version managers install it, is closed to the account. Its program and its standard library are then
copied, once for all checkouts, to a folder that all can read, with an environment whose packages are those of this one.
"""

from __future__ import annotations

import compileall
import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from cli.local_stack.child_process import Account
from cli.local_stack.source_watch import list_source_folders
from cli.local_stack.unprivileged_account import can_reach, make_system_folder, open_to_all

PROJECT = Path(__file__).resolve().parents[2]
PACKAGES = ("api", "cli", "migrations", "shared", "workers")
_LEFT_OUT = shutil.ignore_patterns(
    "site-packages", "test", "tests", "idlelib", "tkinter", "turtledemo", "ensurepip", "config-*"
)
_COPY_PREFIX = "python-"
_NAME = f"python{sys.version_info.major}.{sys.version_info.minor}"
_UNUSED_SECONDS = 86_400
_CHECK = "import asyncio, ctypes, hashlib, psycopg, sqlite3, ssl, zlib"


class PythonUnreachable(Exception):
    """The account cannot run the parts. The message says what it cannot reach."""


@dataclass(frozen=True)
class PartPython:
    """The program that runs the parts, and the variables that it needs."""

    program: str = sys.executable
    environment: dict[str, str] = field(default_factory=dict)


def find_python(account: Account) -> PartPython:
    """Return a Python that the account can run, with the project and its packages.

    Raises `PythonUnreachable` when the account cannot read the project or its packages, or the copy does not work.
    """
    packages = Path(sysconfig.get_path("purelib"))
    samples = (PROJECT, PROJECT / "cli" / "main.py", packages, packages / "psycopg" / "__init__.py")
    # The folders of the project, and of kinds that are installed from elsewhere.
    for path in (*samples, *list_source_folders()):
        if not can_reach(account, path):
            raise PythonUnreachable(f"it cannot read {path}")
    _compile_project()
    program = Path(sys.executable)
    standard_library = Path(sysconfig.get_path("stdlib"))
    if all(can_reach(account, path) for path in (program, program.resolve(), standard_library, Path(sys.prefix))):
        return PartPython()
    return _find_copy(account, program.resolve(), standard_library, packages)


def _compile_project() -> None:
    """Write the byte code of the project, since the account may not: each part would compile it again at each start."""
    for package in PACKAGES:
        compileall.compile_dir(PROJECT / package, quiet=2)


def _find_copy(account: Account, program: Path, standard_library: Path, packages: Path) -> PartPython:
    """Return a copy of the Python with an environment for the packages. All checkouts share the copy of a Python."""
    folder = make_system_folder()
    home = folder / (_COPY_PREFIX + _short_hash(program, program.stat().st_mtime_ns, sys.version))
    environment = home / "environments" / _short_hash(packages)
    python = PartPython(str(environment / "bin" / "python"), {"LD_LIBRARY_PATH": str(home / "lib")})
    if not home.exists():
        remove_unused_copies(folder)
        _make(home, lambda making: _copy_python(making, program, standard_library))
    # The time of the last use, after which unused copies are removed.
    os.utime(home)
    if not environment.exists():
        _make(environment, lambda making: _make_environment(making, home, packages))
        _check(account, python, environment)
    return python


def _short_hash(*identity: object) -> str:
    return hashlib.sha256("\0".join(map(str, identity)).encode()).hexdigest()[:16]


def _make(folder: Path, fill: Callable[[Path], None]) -> None:
    """Make a folder that all can read and that appears whole, unless another stack makes the same at the same time."""
    folder.parent.mkdir(mode=0o755, exist_ok=True)
    making = Path(tempfile.mkdtemp(prefix=".making-", dir=folder.parent))
    try:
        fill(making)
        open_to_all(making)
        try:
            making.rename(folder)
        except OSError:
            # Another stack was faster, and its folder is as good.
            if not folder.exists():
                raise
    finally:
        shutil.rmtree(making, ignore_errors=True)


def _copy_python(making: Path, program: Path, standard_library: Path) -> None:
    (making / "bin").mkdir()
    shutil.copy2(program, making / "bin" / _NAME)
    shutil.copytree(standard_library, making / "lib" / _NAME, ignore=_LEFT_OUT)
    for library in Path(sys.base_prefix, "lib").glob("libpython*.so*"):
        shutil.copy2(library, making / "lib" / library.name)


def _make_environment(making: Path, home: Path, packages: Path) -> None:
    (making / "bin").mkdir()
    (making / "lib" / _NAME).mkdir(parents=True)
    (making / "bin" / "python").symlink_to(home / "bin" / _NAME)
    (making / "lib" / _NAME / "site-packages").symlink_to(packages)
    (making / "pyvenv.cfg").write_text(
        f"home = {home / 'bin'}\ninclude-system-site-packages = false\n", encoding="utf-8"
    )


def remove_unused_copies(folder: Path) -> None:
    """Delete the copies that no stack has used for a day, that no process runs, and whose checkouts are all gone."""
    import psutil

    programs = {Path(process.info["exe"]) for process in psutil.process_iter(["exe"]) if process.info["exe"]}
    for home in folder.glob(f"{_COPY_PREFIX}*"):
        is_recent = time.time() - home.stat().st_mtime < _UNUSED_SECONDS
        is_running = any(program.is_relative_to(home) for program in programs)
        has_checkout = any(link.exists() for link in home.glob("environments/*/lib/*/site-packages"))
        if not is_recent and not is_running and not has_checkout:
            shutil.rmtree(home, ignore_errors=True)


def _check(account: Account, python: PartPython, environment: Path) -> None:
    """Run the copy once in its environment, and delete that if it does not work. Raises `PythonUnreachable`."""
    outcome = subprocess.run(
        [python.program, "-c", _CHECK],
        env={"PATH": os.environ.get("PATH", os.defpath), **python.environment},
        cwd="/",
        stdin=subprocess.DEVNULL,
        capture_output=True,
        user=account.uid,
        group=account.gid,
        extra_groups=[],
    )
    if outcome.returncode != 0:
        shutil.rmtree(environment, ignore_errors=True)
        error = outcome.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        raise PythonUnreachable(f"it cannot read {sys.base_prefix}, and a copy of that Python does not work ({error})")
