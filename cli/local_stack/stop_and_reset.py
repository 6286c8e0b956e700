"""`taskmill stop` and `taskmill reset`: end the local stack of a data directory, and delete what it stored there."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Final

from cli.local_stack.child_process import wait_until
from cli.local_stack.data_directory import DataDirectory, is_in_use, remove_state_folder
from cli.local_stack.postgres import PostgresServer
from shared.errors import ConfigurationError

_STOP_SECONDS: Final = 25.0
"""Longer than `up` takes at most: after `STOP_LIMIT_SECONDS` it kills what has not stopped."""

_CONTENTS: Final = (
    "api_key",
    "broker",
    "local_stack.json",
    "mail",
    "objects",
    "postgres",
    "processes.json",
    "ready.json",
    "scratch",
    "stack.log",
)
"""What a stack creates in its data directory, except the lock."""


def stop_stack(data_dir: Path) -> bool:
    """Stop the stack that runs on the data directory, in order, and return when it has ended.

    Returns False when none runs. Raises `ConfigurationError` when its process cannot be stopped.
    """
    if not is_in_use(data_dir):
        return False
    pid = _read_holder(data_dir)
    try:
        os.kill(pid, signal.SIGTERM)
    except ProcessLookupError:
        # It ended in the meantime.
        pass
    except PermissionError:
        raise ConfigurationError(
            f"The Taskmill on {data_dir} (process {pid}) belongs to another user: stop it as that user"
        ) from None
    if not wait_until(lambda: not is_in_use(data_dir), _STOP_SECONDS):
        raise ConfigurationError(
            f"The Taskmill on {data_dir} (process {pid}) has not stopped within {_STOP_SECONDS:.0f} s: see its log"
        )
    return True


def reset_data_directory(data_dir: Path, confirm: Callable[[str], bool]) -> bool:
    """Delete everything that a stack stored in the data directory, once `confirm` has returned True for the question.

    Files that no stack creates stay. Returns False when there is nothing to delete or it was not confirmed. Raises
    `ConfigurationError` while a stack runs on the directory.
    """
    if not (data_dir / "local_stack.json").exists():
        return False
    with DataDirectory(data_dir):
        if not confirm(f"Delete all tasks, files, keys and mail in {data_dir}?"):
            return False
        # When root runs the stack, the cluster and the folders of the parts may be in another place.
        PostgresServer(data_dir / "postgres").remove()
        remove_state_folder(data_dir)
        for name in _CONTENTS:
            path = data_dir / name
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
    return True


def _read_holder(data_dir: Path) -> int:
    """Return the process that holds the lock of the data directory, as it wrote itself into the lock."""
    try:
        return int((data_dir / "lock").read_text(encoding="ascii"))
    except (OSError, ValueError):
        raise ConfigurationError(f"The Taskmill on {data_dir} is just starting or ending: try again") from None
