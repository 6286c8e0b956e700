"""Makes the checkout's `.venv`, for the launcher: run as `python -I virtual_environment.py ROOT LOCK…`.

It runs before anything is installed, so it stands on the standard library alone.
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
    """The environment could not be made. The message says what to do."""


def set_up(root: Path, locks: list[str]) -> None:
    """Bring `.venv` to what the locks say. Of several that run at once, one works and the others wait.

    What is there already stays; an environment whose Python is gone or too old, or that was interrupted before it had
    pip, is made anew. Raises `SetUpFailed`.
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
            _say("set up")


@contextmanager
def _hold(root: Path) -> Iterator[None]:
    """Hold the checkout's folder itself: such a lock ends with its process, however that ends, and leaves no file."""
    descriptor = os.open(root, os.O_RDONLY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _say("waiting for another taskmill, which is setting up")
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        except OSError:
            # A network file system may lock no folders; then two at once are the user's to avoid.
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
    """Raise `SetUpFailed` for another user's environment: it may be whole, and only its Python be closed to this user."""
    if environment.exists() and os.geteuid() not in (0, environment.stat().st_uid):
        python = os.path.realpath(environment / "bin" / "python")
        raise SetUpFailed(
            f".venv is another user's, and this one cannot run its Python ({python}): let its owner remove it, and make it "
            "with a Python that both may run, such as TASKMILL_PYTHON=/usr/bin/python3"
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
    _say(f"installing what {lock.name} names; this takes a minute")
    content = lock.read_bytes()
    arguments = ["install", "--quiet", "--disable-pip-version-check", "--no-input", "--require-hashes", "--no-deps"]
    # Its standard output is the command's own, which may be read by a program.
    outcome = subprocess.run([python, "-m", "pip", *arguments, "--requirement", lock], stdout=sys.stderr)
    if outcome.returncode != 0:
        raise SetUpFailed(f"{lock.name} could not be installed; the reason stands above")
    draft = _stamp(environment, lock).with_suffix(".new")
    draft.write_bytes(content)
    draft.replace(_stamp(environment, lock))


def _add_project(python: Path, root: Path) -> None:
    """Let the environment find the project's own packages, by a relative path, so that a checkout may be moved."""
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
