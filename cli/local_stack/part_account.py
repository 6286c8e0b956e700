"""Chooses the account of the parts. For root it is the account of Postgres, if that can reach everything it needs."""

from __future__ import annotations

import os
import pwd
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote, urlsplit

from cli.local_stack.account_python import PartPython, PythonUnreachable, find_python
from cli.local_stack.child_process import Account
from cli.local_stack.unprivileged_account import can_pass_to, can_reach, can_write, find_account
from shared.errors import ConfigurationError

_STORAGE_URL = "TASKMILL_STORAGE_URL"
_SCRATCH_DIR = "TASKMILL_SCRATCH_DIR"
_INCOMING = ".incoming"
"""A folder of objects is recognised by this folder in it."""


@dataclass(frozen=True)
class PartAccount:
    """The account of the parts and their Python. `account` None is the user who started the stack."""

    account: Account | None = None
    python: PartPython = field(default_factory=PartPython)
    obstacle: str | None = None
    """Why the parts run as root, if they do: what the account cannot reach."""

    @property
    def environment(self) -> dict[str, str]:
        """The variables that differ from those of the user who started the stack."""
        if self.account is None:
            return {}
        entry = pwd.getpwuid(self.account.uid)
        return {"HOME": entry.pw_dir, "USER": entry.pw_name, "LOGNAME": entry.pw_name, **self.python.environment}

    @property
    def name(self) -> str:
        """The name of the account."""
        return pwd.getpwuid(os.geteuid() if self.account is None else self.account.uid).pw_name


def decide_account(given: Mapping[str, str]) -> PartAccount:
    """Return the account of the parts, given the environment of the user who starts the stack."""
    try:
        account = find_account()
    except ConfigurationError as error:
        return PartAccount(obstacle=str(error))
    if account is None:
        return PartAccount()
    for obstacle in _list_obstacles(account, given):
        return PartAccount(obstacle=obstacle)
    try:
        return PartAccount(account, find_python(account))
    except PythonUnreachable as error:
        return PartAccount(obstacle=str(error))
    except (OSError, ImportError) as error:
        return PartAccount(obstacle=f"no Python can be made for it: {error}")


def find_own_storage(given: Mapping[str, str]) -> Path | None:
    """Return the folder of objects that the user has chosen, or None if it is the stack's or no folder."""
    url = urlsplit(given.get(_STORAGE_URL, ""))
    return Path(unquote(url.path)) if url.scheme == "file" and url.path.strip("/") else None


def may_hand_over(folder: Path) -> bool:
    """Return whether a folder of root is empty or contains objects, so that the account may become its owner."""
    if not folder.exists():
        return True
    return folder.stat().st_uid == 0 and ((folder / _INCOMING).is_dir() or not any(folder.iterdir()))


def _list_obstacles(account: Account, given: Mapping[str, str]) -> Iterator[str]:
    """Yield each path in the user's settings that the account cannot use."""
    storage = find_own_storage(given)
    if storage and not can_write(account, storage) and not (can_pass_to(account, storage) and may_hand_over(storage)):
        yield f"it cannot write to {storage}, the folder of {_STORAGE_URL}"
    if (scratch := given.get(_SCRATCH_DIR)) and not can_write(account, Path(scratch)):
        yield f"it cannot write to {scratch}, the folder of {_SCRATCH_DIR}"
    credentials = []
    if given.get(_STORAGE_URL, "").startswith("s3:") and not given.get("AWS_ACCESS_KEY_ID"):
        credentials += [Path.home() / ".aws" / name for name in ("credentials", "config")]
    if given.get("TASKMILL_DATABASE_URL"):
        credentials += [Path(given.get("PGPASSFILE") or Path.home() / ".pgpass"), Path.home() / ".pg_service.conf"]
    for path in credentials:
        if path.exists() and not can_reach(account, path):
            yield f"it cannot read {path}"
