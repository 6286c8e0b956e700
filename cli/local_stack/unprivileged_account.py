"""For root alone: the account that Postgres runs as, since it refuses root, and what that account can reach."""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path

from cli.local_stack.child_process import Account
from shared.errors import ConfigurationError

SYSTEM_STATE_FOLDER = Path("/var/db/taskmill" if sys.platform == "darwin" else "/var/lib/taskmill")
"""Where root keeps what the account cannot reach elsewhere. The folder is root's, and all may pass through it."""


def find_account() -> Account | None:
    """None for a plain user, who runs Postgres himself; for root `postgres` or, where there is none, `nobody`.

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
    """The account that owns an existing folder, for root; None for a plain user."""
    if os.geteuid() != 0:
        return None
    status = path.stat()
    return Account(status.st_uid, status.st_gid)


def can_reach(account: Account, path: Path) -> bool:
    """Whether the account may pass through every folder above the path and, if it exists, read it.

    Judged by the permission bits alone. Where an access list says more, the answer errs towards no.
    """
    path = path.resolve()
    if not all(_allows(account, folder, stat.S_IXOTH) for folder in path.parents if folder.exists()):
        return False
    wanted = stat.S_IROTH | (stat.S_IXOTH if path.is_dir() else 0)
    return not path.exists() or _allows(account, path, wanted)


def make_system_folder() -> Path:
    """Make `SYSTEM_STATE_FOLDER`, if absent, and answer it."""
    SYSTEM_STATE_FOLDER.mkdir(parents=True, exist_ok=True)
    status = SYSTEM_STATE_FOLDER.stat()
    if status.st_uid != 0 or status.st_mode & 0o022:
        raise ConfigurationError(f"{SYSTEM_STATE_FOLDER} is not root's alone: others may write there")
    SYSTEM_STATE_FOLDER.chmod(0o755)
    return SYSTEM_STATE_FOLDER


def _allows(account: Account, path: Path, wanted: int) -> bool:
    status = path.stat()
    if status.st_uid == account.uid:
        granted = status.st_mode >> 6
    elif status.st_gid == account.gid:
        granted = status.st_mode >> 3
    else:
        granted = status.st_mode
    return granted & wanted == wanted
