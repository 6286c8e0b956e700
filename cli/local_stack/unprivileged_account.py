"""For root only: the unprivileged account that Postgres and the parts run as, and what that account can reach."""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path

from cli.local_stack.child_process import Account
from shared.errors import ConfigurationError

SYSTEM_STATE_FOLDER = Path("/var/db/taskmill" if sys.platform == "darwin" else "/var/lib/taskmill")
"""Where root stores what the account cannot reach elsewhere. The folder belongs to root, and all accounts can pass it."""


def find_account() -> Account | None:
    """Return None for a plain user, who needs no other account; for root `postgres` or, where there is none, `nobody`.

    Raises `ConfigurationError` when root has neither.
    """
    if os.geteuid() != 0:
        return None
    import pwd

    for name in ("postgres", "nobody"):
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return Account(entry.pw_uid, entry.pw_gid)
    raise ConfigurationError(
        "Postgres does not run as root, and there is neither a `postgres` nor a `nobody` account: "
        "start Taskmill as a plain user"
    )


def find_owner(path: Path) -> Account | None:
    """Return the account that owns an existing folder, for root; None for a plain user."""
    if os.geteuid() != 0:
        return None
    status = path.stat()
    return Account(status.st_uid, status.st_gid)


def can_pass_to(account: Account, path: Path) -> bool:
    """Return whether the account may pass through every folder above the path.

    Only permission bits are looked at. Where an access list allows more, the answer is still no.
    """
    return all(_allows(account, folder, stat.S_IXOTH) for folder in path.resolve().parents if folder.exists())


def can_write(account: Account, path: Path) -> bool:
    """Return whether the account may write in an existing folder."""
    return (
        path.is_dir() and can_pass_to(account, path) and _allows(account, path.resolve(), stat.S_IWOTH | stat.S_IXOTH)
    )


def can_reach(account: Account, path: Path) -> bool:
    """Return whether the account may pass through every folder above the path and, if it exists, read it."""
    path = path.resolve()
    if not can_pass_to(account, path):
        return False
    wanted = stat.S_IROTH | (stat.S_IXOTH if path.is_dir() else 0)
    return not path.exists() or _allows(account, path, wanted)


def make_system_folder() -> Path:
    """Create `SYSTEM_STATE_FOLDER` if it is missing, and return it."""
    SYSTEM_STATE_FOLDER.mkdir(parents=True, exist_ok=True)
    status = SYSTEM_STATE_FOLDER.stat()
    if status.st_uid != 0 or status.st_mode & 0o022:
        raise ConfigurationError(f"Accounts other than root may write to {SYSTEM_STATE_FOLDER}: remove that permission")
    SYSTEM_STATE_FOLDER.chmod(0o755)
    return SYSTEM_STATE_FOLDER


def open_to_all(tree: Path) -> None:
    """Permit every account to read the content of a folder that this process created, and to execute what its owner may execute."""
    for folder, _, names in os.walk(tree):
        Path(folder).chmod(0o755)
        for name in names:
            path = Path(folder) / name
            if not path.is_symlink():
                path.chmod(0o755 if path.stat().st_mode & 0o100 else 0o644)


def _allows(account: Account, path: Path, wanted: int) -> bool:
    status = path.stat()
    if status.st_uid == account.uid:
        granted = status.st_mode >> 6
    elif status.st_gid == account.gid:
        granted = status.st_mode >> 3
    else:
        granted = status.st_mode
    return granted & wanted == wanted
