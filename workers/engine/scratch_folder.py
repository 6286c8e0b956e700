"""The scratch folder of a worker process, in which each attempt has a folder of its own."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
import time
from pathlib import Path

from shared.errors import ConfigurationError
from shared.settings import Settings


class ScratchFolder:
    """The folder of this process, with a locked file in it, so that folders of killed processes are recognised and removed."""

    def __init__(self, settings: Settings) -> None:
        root = settings.scratch_dir or Path(tempfile.gettempdir()) / f"taskmill-scratch-{os.getuid()}"
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        if settings.scratch_dir is None and (root.is_symlink() or root.stat().st_uid != os.getuid()):
            # Anyone may have made a folder of that name there, and would own what is put into it.
            raise ConfigurationError(f"{root} belongs to another user: remove it, or set TASKMILL_SCRATCH_DIR")
        self._remove_abandoned(root)
        self.path = Path(tempfile.mkdtemp(prefix="worker-", dir=root))
        self._lock = os.open(self.path / "lock", os.O_CREAT | os.O_RDWR, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def remove(self) -> None:
        """Delete the folder with its content."""
        shutil.rmtree(self.path, ignore_errors=True)

    @staticmethod
    def _remove_abandoned(root: Path) -> None:
        for folder in root.glob("worker-*"):
            try:
                lock = os.open(folder / "lock", os.O_RDWR)
            except FileNotFoundError:
                # Another process may have made its folder and not locked it yet, or be removing it now.
                with contextlib.suppress(FileNotFoundError):
                    if time.time() - folder.stat().st_mtime > 60:
                        shutil.rmtree(folder, ignore_errors=True)
                continue
            except PermissionError:
                # The folder belongs to another user.
                continue
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
            except BlockingIOError:
                pass
            finally:
                os.close(lock)
