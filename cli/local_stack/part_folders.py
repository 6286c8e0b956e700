"""The folders in which the parts write: objects, scratch, mail, and the broker's.

Started by root, the parts run as an unprivileged account, and these folders are that account's. They lie in the data
directory, or, where the account cannot pass to it, in a folder below `SYSTEM_STATE_FOLDER`, which the data directory
remembers.
"""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from functools import cached_property
from pathlib import Path

from cli.local_stack.child_process import Account
from cli.local_stack.data_directory import STATE_KEY, DataDirectory, find_other_owner
from cli.local_stack.owned_files import make_folder, write_atomically, writing_in
from cli.local_stack.unprivileged_account import can_pass_to, make_system_folder
from shared.errors import ConfigurationError

_OWNERS_KEY = "part_folder_owners"


class PartFolders:
    """The folders of the parts of one stack. `account` is None when the parts run as the user who started the stack."""

    def __init__(self, directory: DataDirectory, account: Account | None) -> None:
        self._directory = directory
        self._account = account

    def folder(self, name: str) -> Path:
        """Return the folder of that name, made if absent, in which the account may write.

        What lies in the data directory is moved when the account cannot reach it there. Raises `ConfigurationError` when
        the data directory is a copy whose folders are the original's.
        """
        inside = self._directory.path / name
        if self._state is None:
            folder = make_folder(inside)
        else:
            folder = self._state / name
            if inside.is_dir() and not folder.exists():
                with writing_in(self._directory.path):
                    shutil.move(inside, folder)
            make_folder(folder)
        self.hand_over(folder, name)
        return folder

    def hand_over(self, folder: Path, name: str) -> None:
        """Change the owner of the folder and its content to the account, unless it owns them already.

        Once an account has written there, a file with several names is left alone: the account may have linked a file
        of root's from elsewhere.
        """
        owners = self._directory.recall(_OWNERS_KEY)
        known = dict(owners) if isinstance(owners, dict) else {}
        earlier = known.get(name)
        account = self._account
        if account is not None and (earlier != account.uid or folder.lstat().st_uid != account.uid):
            for parent, folders, names in os.walk(folder, topdown=False):
                for entry in [*folders, *names]:
                    path = Path(parent, entry)
                    status = path.lstat()
                    is_safe_file = stat.S_ISREG(status.st_mode) and (status.st_nlink == 1 or earlier is None)
                    if stat.S_ISDIR(status.st_mode) or is_safe_file:
                        os.chown(path, account.uid, account.gid, follow_symlinks=False)
            os.chown(folder, account.uid, account.gid, follow_symlinks=False)
        self._directory.remember(_OWNERS_KEY, known | {name: account.uid if account else os.geteuid()})

    @cached_property
    def _state(self) -> Path | None:
        """The folder outside of the data directory that holds the folders, or None if they lie within."""
        return self._find_state()

    def _find_state(self) -> Path | None:
        remembered = self._directory.recall(STATE_KEY)
        if isinstance(remembered, str) and Path(remembered).is_dir():
            state = Path(remembered)
            if other := find_other_owner(state, self._directory.path):
                raise ConfigurationError(
                    f"{self._directory.path} is a copy of {other}, whose objects lie in {state} and were not copied with "
                    f"it. Remove {self._directory.path} to begin with an empty one"
                )
        elif self._account is None or can_pass_to(self._account, self._directory.path / "objects"):
            return None
        else:
            state = Path(tempfile.mkdtemp(prefix="state-", dir=make_system_folder()))
            # The account passes through, to folders of its own.
            state.chmod(0o711)
            self._directory.remember(STATE_KEY, str(state))
        write_atomically(state / "owner", f"{self._directory.path}\n")
        return state
