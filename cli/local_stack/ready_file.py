"""The ready file: the URLs, credentials and process ids of a running stack."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cli.local_stack.data_directory import is_in_use
from cli.local_stack.owned_files import read_memory, write_atomically
from shared.contracts.kind import QUEUES
from shared.errors import ConfigurationError

PARTS = (
    "api",
    "relay",
    "beat",
    "flower",
    *(f"worker-{queue}" for queue in QUEUES),
    "postgres",
    "broker",
    "mail",
)
"""The names of all parts, in the order in which `pids` lists them."""


@dataclass(frozen=True)
class ReadyFile:
    """The content. `pids` are the processes of the parts; a part that a server of the user replaces is None.

    So are `mail_url` and `mail_dir` if a server of the user receives the mail. The running parts use `database_url`, whose
    role may only read and write rows; `database_owner_url` is None if that role owns the tables.
    """

    api_url: str
    flower_url: str
    flower_user: str
    flower_password: str
    mail_url: str | None
    mail_dir: str | None
    api_key: str
    database_url: str
    database_owner_url: str | None
    broker_url: str
    storage_url: str
    pids: dict[str, list[int] | None]

    def write(self, path: Path) -> None:
        """Replace the file in one step. Only its owner can read it."""
        write_atomically(path, json.dumps(asdict(self), indent=2) + "\n")


def read_running(data_dir: Path) -> dict[str, Any]:
    """Return the ready file of the stack that runs on the directory. Raises `ConfigurationError` if none does."""
    ready = read_memory(data_dir / "ready.json") if is_in_use(data_dir) else {}
    if not ready:
        raise ConfigurationError(
            f"No Taskmill runs on {data_dir}, or it is not ready yet: start it with `taskmill up --data-dir {data_dir}`"
        )
    return ready
