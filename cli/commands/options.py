"""Options and values that several commands share."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from shared.settings import Settings

_URLS = ("database_url", "broker_url", "storage_url")

DataDir = Annotated[
    Path | None,
    typer.Option(help="The data directory of the local stack. Default: TASKMILL_DATA_DIR, or ~/.local/share/taskmill."),
]
StackDir = Annotated[
    Path | None,
    typer.Option(
        "--data-dir",
        help="Use the servers of the local stack that runs on this data directory. "
        "Default: the servers that the settings name, such as TASKMILL_DATABASE_URL.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def read_settings_of(data_dir: Path | None) -> Settings:
    """Read the settings. With a data directory, the servers are those of the local stack that runs on it.

    Raises `ConfigurationError` for a wrong setting, and when no stack runs on the directory.
    """
    from shared.settings import read_settings

    if data_dir is not None:
        from cli.local_stack.ready_file import read_running

        ready = read_running(data_dir)
        os.environ.update({f"TASKMILL_{name.upper()}": ready[name] for name in _URLS})
    return read_settings()


def split_commas(text: str) -> list[str]:
    """Return the words between the commas, without spaces around them, and without empty ones."""
    return [word for part in text.split(",") if (word := part.strip())]
