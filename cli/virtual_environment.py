"""Makes the `.venv` of the checkout for the launcher: `python -I virtual_environment.py ROOT LOCK…`.

It runs before anything is installed, so it imports only the standard library.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_IS_NEW_ENOUGH = "import pip, sys; sys.exit(sys.version_info < (3, 11))"
_FIND_PACKAGES = "import sysconfig; print(sysconfig.get_path('purelib'))"


class SetUpFailed(Exception):
    """The virtual environment could not be made. The message says what to do."""


def set_up(root: Path, locks: list[str]) -> None:
    """Install what the locks name into `.venv`. If several run at once, one does the work and the others wait.

    What is installed already stays. An environment is made again if its Python is missing or too old, or if it has no pip
    because it was interrupted. Raises `SetUpFailed`.
    """
    environment = root / ".venv"
    with _hold(root):
        python = environment / "bin" / "python"
        if not _runs(python, _IS_NEW_ENOUGH):
            _refuse_others(environment)
            _require_writable(root)
            _make(environment)
        _add_project(python, root)
        missing = [lock for lock in locks if not _is_installed(environment, root / lock)]
        if missing:
            _require_writable(environment)
        for lock in missing:
            _install(python, environment, root / lock)
        if missing:
            _say(".venv is ready")


@contextmanager
def _hold(root: Path) -> Iterator[None]:
    """Hold a lock on the folder of the checkout. It needs no file, and ends with the process in every case."""
    descriptor = os.open(root, os.O_RDONLY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _say("waiting for another taskmill that makes .venv")
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        except OSError:
            # Some network file systems cannot lock folders. There, the user must not start two at once.
            pass
        yield
    finally:
        os.close(descriptor)


def _say(text: str) -> None:
    print(f"taskmill: {text}", file=sys.stderr, flush=True)


def _runs(python: Path, code: str) -> bool:
    try:
        return subprocess.run([python, "-c", code], stderr=subprocess.DEVNULL).returncode == 0
    except OSError:
        return False


def _is_installed(environment: Path, lock: Path) -> bool:
    try:
        return _stamp(environment, lock).read_bytes() == lock.read_bytes()
    except FileNotFoundError:
        return False


def _stamp(environment: Path, lock: Path) -> Path:
    return environment / f".installed-{lock.name}"


def _refuse_others(environment: Path) -> None:
    """Raise `SetUpFailed` if another user owns the environment: it may work, and only be inaccessible to this user."""
    if environment.exists() and os.geteuid() not in (0, environment.stat().st_uid):
        python = os.path.realpath(environment / "bin" / "python")
        raise SetUpFailed(
            f".venv belongs to another user, and you cannot run its Python ({python}): ask its owner to delete it and to make "
            "it with a Python that both of you can run, such as TASKMILL_PYTHON=/usr/bin/python3"
        )


def _require_writable(folder: Path) -> None:
    """Raise `SetUpFailed` when the checkout is on a read-only file system, or may not be written to by this user."""
    if not os.access(folder, os.W_OK):
        raise SetUpFailed(
            f"{folder} is read-only for this user, and the packages are installed into the checkout at its first use: run "
            "`./taskmill --help` once as a user who may write there (or before the file system is mounted read-only), "
            "or copy the checkout to a folder of yours"
        )


def _make(environment: Path) -> None:
    _say(f"making .venv with Python {sys.version.split()[0]}")
    if environment.exists():
        shutil.rmtree(environment)
    outcome = subprocess.run(
        [sys.executable, "-m", "venv", str(environment)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    if outcome.returncode != 0:
        shutil.rmtree(environment, ignore_errors=True)
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        raise SetUpFailed(
            f"this Python cannot make a virtual environment:\n{outcome.stdout.strip()}\n"
            f"Install its venv module (Debian and Ubuntu: apt install python{version}-venv), "
            "or name another Python in TASKMILL_PYTHON"
        )


def _install(python: Path, environment: Path, lock: Path) -> None:
    _say(f"installing the packages in {lock.name}; this takes about a minute")
    content = lock.read_bytes()
    arguments = ["install", "--quiet", "--disable-pip-version-check", "--no-input", "--require-hashes", "--no-deps"]
    # A program may read the standard output of the command, so pip writes to standard error.
    outcome = subprocess.run([python, "-m", "pip", *arguments, "--requirement", lock], stdout=sys.stderr)
    if outcome.returncode != 0:
        raise SetUpFailed(f"{lock.name} could not be installed; the reason is above")
    draft = _stamp(environment, lock).with_suffix(".new")
    draft.write_bytes(content)
    draft.replace(_stamp(environment, lock))


def _add_project(python: Path, root: Path) -> None:
    """Add the checkout to the import path of the environment, by a relative path, so that it can be moved."""
    packages = subprocess.run([python, "-c", _FIND_PACKAGES], stdout=subprocess.PIPE, text=True, check=True).stdout
    path = Path(packages.strip()) / "taskmill.pth"
    line = os.path.relpath(root, path.parent) + "\n"
    if not path.exists() or path.read_text(encoding="utf-8") != line:
        draft = path.with_suffix(".new")
        draft.write_text(line, encoding="utf-8")
        draft.replace(path)


if __name__ == "__main__":
    try:
        set_up(Path(sys.argv[1]), sys.argv[2:])
    except SetUpFailed as failure:
        _say(str(failure))
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
