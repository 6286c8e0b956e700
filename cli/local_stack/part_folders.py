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
from pathlib import Path

from cli.local_stack.child_process import Account
from cli.local_stack.data_directory import STATE_KEY, DataDirectory, find_other_owner
from cli.local_stack.owned_files import make_folder, write_atomically, writing_in
from cli.local_stack.unprivileged_account import can_pass_to, make_system_folder
from shared.errors import ConfigurationError

_ACCOUNT_KEY = "parts_uid"


class PartFolders:
    """The folders of the parts of one stack. `account` is None when the parts run as whoever started the stack.

    Raises `ConfigurationError` when the data directory is a copy whose folders are the original's.
    """

    def __init__(self, directory: DataDirectory, account: Account | None) -> None:
        self._directory = directory
        self._account = account
        uid = account.uid if account else os.geteuid()
        earlier = directory.recall(_ACCOUNT_KEY)
        self._owner_changed = earlier != uid
        self._was_always_root = earlier is None
        self._state = self._find_state()
        directory.remember(_ACCOUNT_KEY, uid)

    def folder(self, name: str) -> Path:
        """Return the folder of that name, made if absent, in which the account may write.

        What lies in the data directory is moved when the account cannot reach it there.
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
        if self._account is not None:
            self.hand_over(folder)
        return folder

    def hand_over(self, folder: Path) -> None:
        """Make the account the owner of the folder and of what is in it, unless it is already.

        Once an account has written there, a file with several names is left alone: the account may have linked a file
        of root's from elsewhere.
        """
        if self._account is None or (not self._owner_changed and folder.lstat().st_uid == self._account.uid):
            return
        account = self._account
        for parent, folders, names in os.walk(folder, topdown=False):
            for name in [*folders, *names]:
                path = Path(parent, name)
                status = path.lstat()
                is_safe_file = stat.S_ISREG(status.st_mode) and (status.st_nlink == 1 or self._was_always_root)
                if stat.S_ISDIR(status.st_mode) or is_safe_file:
                    os.chown(path, account.uid, account.gid, follow_symlinks=False)
        os.chown(folder, account.uid, account.gid, follow_symlinks=False)

    def _find_state(self) -> Path | None:
        """Return the folder outside of the data directory that holds the folders, or None if they lie within."""
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
