"""The commands for stored secrets: `secrets rotate`."""

from __future__ import annotations

import sys

import typer

from cli.commands.options import StackDir

app = typer.Typer(help="Manage the secrets that are stored encrypted.", no_args_is_help=True)


@app.callback()
def group() -> None:
    """Manage the secrets that are stored encrypted."""


@app.command("rotate")
def rotate(data_dir: StackDir = None) -> None:
    """Encrypt all stored secrets again with the first key of TASKMILL_ENCRYPTION_KEYS.

    All parts keep working. First put the new key in front of the old one and restart every part, so that nothing is encrypted with
    the old one any more. When this command has ended with 0, nothing stored needs the old key.
    """
    from cli.commands.options import read_settings_of
    from shared.secret_rotation import rotate_secrets

    rotation = rotate_secrets(read_settings_of(data_dir))
    print(f"Encrypted {rotation.encrypted_again} secrets again with the key {rotation.key}.")
    for name, count in sorted(rotation.unreadable.items()):
        print(
            f"{count} secrets need the key {name}, and cannot be decrypted: add it behind the first in TASKMILL_ENCRYPTION_KEYS.",
            file=sys.stderr,
        )
    if rotation.unreadable:
        raise typer.Exit(1)
