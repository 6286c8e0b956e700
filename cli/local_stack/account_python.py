"""Finds a Python with which the unprivileged account can run the parts, and makes one where it cannot reach this one.

A Python below /root, as version managers install it, is closed to the account. Its program and its standard library are then
copied, once, to a folder that all can read, with an environment whose packages are those of this one.
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
    identity = f"{program}\0{program.stat().st_mtime_ns}\0{packages}\0{sys.version}"
    home = make_system_folder() / f"python-{hashlib.sha256(identity.encode()).hexdigest()[:16]}"
    python = PartPython(str(home / "environment" / "bin" / "python"), {"LD_LIBRARY_PATH": str(home / "lib")})
    if not home.exists():
        making = Path(tempfile.mkdtemp(prefix=".making-", dir=home.parent))
        try:
            _copy(making, home, program, standard_library, packages)
            try:
                making.rename(home)
            except OSError:
                # Another stack was faster, and its copy is as good.
                if not home.exists():
                    raise
        finally:
            shutil.rmtree(making, ignore_errors=True)
        _check(account, python, home)
    return python


def _copy(making: Path, home: Path, program: Path, standard_library: Path, packages: Path) -> None:
    name = f"python{sys.version_info.major}.{sys.version_info.minor}"
    (making / "bin").mkdir()
    shutil.copy2(program, making / "bin" / name)
    shutil.copytree(standard_library, making / "lib" / name, ignore=_LEFT_OUT)
    for library in Path(sys.base_prefix, "lib").glob("libpython*.so*"):
        shutil.copy2(library, making / "lib" / library.name)
    environment = making / "environment"
    (environment / "bin").mkdir(parents=True)
    (environment / "lib" / name).mkdir(parents=True)
    (environment / "bin" / "python").symlink_to(home / "bin" / name)
    (environment / "lib" / name / "site-packages").symlink_to(packages)
    (environment / "pyvenv.cfg").write_text(
        f"home = {home / 'bin'}\ninclude-system-site-packages = false\n", encoding="utf-8"
    )
    open_to_all(making)


def _check(account: Account, python: PartPython, home: Path) -> None:
    """Run the copy once; remove it if it does not work. Raises `PythonUnreachable`."""
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
        shutil.rmtree(home, ignore_errors=True)
        said = outcome.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        raise PythonUnreachable(f"it cannot read {sys.base_prefix}, and a copy of that Python does not work ({said})")
