"""The database of the local stack: Postgres from its wheel, run in the foreground as a child process.

The Python wrapper of the wheel is not used. It opens the permissions of folders above the data directory, and detaches the
server from its parent.
"""

from __future__ import annotations

import atexit
import os
import secrets
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Container
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from cli.local_stack.child_process import Account, Command
from cli.local_stack.free_ports import choose_port
from cli.local_stack.owned_files import (
    find_place,
    find_short_runtime_folder,
    make_folder,
    read_memory,
    write_atomically,
    write_memory,
)
from cli.local_stack.postgres_binaries import find_binaries
from cli.local_stack.process_identity import identify, signal_all, wait_until_gone
from cli.local_stack.server_process import ServerFailed, ServerProcess
from cli.local_stack.unprivileged_account import can_reach, find_account, find_owner, make_system_folder
from shared.errors import ConfigurationError

if TYPE_CHECKING:
    import psutil

USER = "taskmill"
"""The superuser of the cluster, which owns the tables."""
APP_USER = "taskmill_app"
"""The role of the API, the relay, the workers and beat; `migrate` creates it."""
DATABASE = "taskmill"

_MEMORY_NAME = "server.json"
_INSIDE = "cluster"

_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "max_connections": "200",
    "password_encryption": "scram-sha-256",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_min_messages": "warning",
    "log_checkpoints": "off",
    "log_line_prefix": "",
    "logging_collector": "off",
    "jit": "off",
    "min_wal_size": "80MB",
}
_UNSAFE_BUT_FAST = {
    "fsync": "off",
    "full_page_writes": "off",
    "shared_buffers": "32MB",
    "io_method": "sync",
    "autovacuum_naptime": "10min",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "max_wal_size": "256MB",
}


class PostgresServer(ServerProcess):
    """Postgres on loopback and on a Unix socket, both with a password, holding the database `taskmill`.

    Started by root, it runs as the account `postgres` or `nobody`. When that account cannot reach the folder, the cluster is
    stored outside of it, and a file in the folder has its path. A cluster inside the folder is moved and copied with the
    folder; one outside belongs to this folder only, and to no copy of it.

    `fast` is for tests: it turns off durability, and deletes a cluster outside of the folder at the end of the `with` block.
    """

    def __init__(self, directory: Path, promised: Container[int] = (), *, fast: bool = False) -> None:
        super().__init__(directory, promised)
        self._fast = fast
        self._memory_path = self.directory / _MEMORY_NAME
        self._memory = self._recall_own()

    @property
    def url(self) -> str:
        """The URL of the database with the role that owns it, by TCP, after `prepare`."""
        return self._make_url(DATABASE)

    @property
    def app_url(self) -> str:
        """The URL of the database for the running parts, whose role may only read and write rows."""
        return f"postgresql://{APP_USER}:{self._memory['app_password']}@127.0.0.1:{self.port}/{DATABASE}"

    @property
    def port(self) -> int:
        """The port on which it listens, after `prepare`."""
        return int(self._memory["port"])

    @property
    def cluster(self) -> Path:
        """The folder of the cluster, after `prepare`."""
        return self.directory / str(self._memory["cluster"])

    def prepare(self) -> None:
        make_folder(self.directory, passable=True)
        account = self._settle_cluster()
        self._claim_cluster()
        self.clear_remains()
        socket_folder = find_short_runtime_folder(
            account.uid if account else os.geteuid(), self._memory.get("socket_folder")
        )
        self._memory |= {
            "port": choose_port(self._memory.get("port"), promised=self._promised),
            "password": self._memory.get("password") or secrets.token_hex(24),
            "app_password": self._memory.get("app_password") or secrets.token_hex(24),
            "socket_folder": str(socket_folder),
            "place": find_place(self.directory),
        }
        write_memory(self._memory_path, self._memory)
        if not self._memory.get("initialised"):
            self._initialise(account)
            self._memory["initialised"] = True
            write_memory(self._memory_path, self._memory)

    def command(self) -> Command:
        account = find_owner(self.cluster)
        settings = _SETTINGS | {
            "port": str(self.port),
            "unix_socket_directories": self._memory["socket_folder"],
            "unix_socket_permissions": "0700",
        }
        if self._fast:
            settings |= _UNSAFE_BUT_FAST
        arguments = [argument for name, value in settings.items() for argument in ("-c", f"{name}={value}")]
        return Command(
            argv=(str(find_binaries(account) / "postgres"), "-D", str(self.cluster), *arguments),
            environment=_environment(),
            account=account,
            # A fast shutdown: it ends the sessions and does not wait for them.
            stop_signal=signal.SIGINT,
        )

    def is_ready(self) -> bool:
        """Return whether `SELECT 1` succeeds."""
        import psycopg

        try:
            with psycopg.connect(self._make_url("postgres"), connect_timeout=2, autocommit=True) as connection:
                connection.execute("SELECT 1")
        except psycopg.OperationalError:
            return False
        return True

    def complete(self) -> None:
        """Create the database if it is missing."""
        import psycopg

        with psycopg.connect(self._make_url("postgres"), connect_timeout=10, autocommit=True) as connection:
            if connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [DATABASE]).fetchone() is None:
                connection.execute(f"CREATE DATABASE {DATABASE}")

    def clear_remains(self) -> None:
        """Kill every server process on this cluster, even in other sessions, and remove their lock files."""
        import psutil

        if "cluster" not in self._memory or not self.cluster.exists():
            return
        cluster = str(self.cluster.resolve())
        remains = [
            identity
            for process in psutil.process_iter()
            if _works_in(process, cluster) and (identity := identify(process.pid))
        ]
        signal_all(remains, signal.SIGKILL)
        wait_until_gone(remains, limit_seconds=10)
        # Postgres only checks whether a process has the pid in these files. After a restart of the machine that may be
        # any process.
        (self.cluster / "postmaster.pid").unlink(missing_ok=True)
        if "socket_folder" in self._memory:
            for stale in Path(self._memory["socket_folder"]).glob(".s.PGSQL.*"):
                stale.unlink()

    def recall(self, name: str) -> object:
        """Return what `remember` stored with the cluster under that name, or None."""
        return self._memory.get("notes", {}).get(name)

    def remember(self, name: str, value: str) -> None:
        """Store a note for as long as the cluster exists."""
        self._memory["notes"] = {**self._memory.get("notes", {}), name: value}
        write_memory(self._memory_path, self._memory)

    def remove(self) -> None:
        """Delete the cluster and the folder of the socket, wherever they are. The server must be stopped.

        A cluster that belongs to another folder is not deleted.
        """
        if "cluster" in self._memory and self._find_other_owner() is None:
            shutil.rmtree(self.cluster, ignore_errors=True)
            self._owner_note.unlink(missing_ok=True)
        self.remove_socket_folder()
        for name in ("cluster", "socket_folder", "initialised", "notes"):
            self._memory.pop(name, None)
        if self.directory.exists():
            write_memory(self._memory_path, self._memory)

    def stop(self) -> None:
        super().stop()
        self.remove_socket_folder()

    def remove_socket_folder(self) -> None:
        """Remove the runtime folder of a stopped server; the next start makes another."""
        if "socket_folder" in self._memory:
            shutil.rmtree(self._memory["socket_folder"], ignore_errors=True)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)
        if self._fast and self._lies_elsewhere:
            self.remove()

    def _make_url(self, database: str) -> str:
        return f"postgresql://{USER}:{self._memory['password']}@127.0.0.1:{self.port}/{database}"

    def _settle_cluster(self) -> Account | None:
        """Decide where the cluster is, at the first start, and return the account that owns it and runs the server."""
        if "cluster" in self._memory:
            if not self.cluster.is_dir():
                raise ConfigurationError(
                    f"The folder of the database, {self.cluster}, is missing: put it back, or remove {self._memory_path} to begin "
                    "with an empty database"
                )
            return find_owner(self.cluster)
        account = find_account()
        inside = self.directory / "cluster"
        if account is None or can_reach(account, inside):
            cluster = inside
            cluster.mkdir(mode=0o700, exist_ok=True)
        elif self._fast:
            cluster = Path(tempfile.mkdtemp(prefix="taskmill-cluster-"))
            # Functions that were registered last run first, so the cluster is removed after the server was killed.
            atexit.register(self.remove)
        else:
            cluster = Path(tempfile.mkdtemp(prefix="cluster-", dir=make_system_folder()))
        if account is not None:
            os.chown(cluster, account.uid, account.gid)
        self._memory["cluster"] = _INSIDE if cluster == inside else str(cluster)
        write_memory(self._memory_path, self._memory)
        return account

    def _recall_own(self) -> dict[str, Any]:
        """Return the stored values, without those of another folder if this one is a copy."""
        memory = read_memory(self._memory_path)
        place = find_place(self.directory)
        is_copy = memory.get("place", place) != place
        kept = Path(memory.get("cluster", _INSIDE))
        if kept.is_absolute() and kept.name == _INSIDE:
            # Older versions kept the whole path of a cluster inside; this folder may have been moved or copied since.
            is_copy = is_copy or kept.parent != self.directory
            memory["cluster"] = _INSIDE
        if is_copy:
            memory.pop("socket_folder", None)
        return memory

    @property
    def _lies_elsewhere(self) -> bool:
        return not self.cluster.is_relative_to(self.directory)

    @property
    def _owner_note(self) -> Path:
        """The file that names the folder to which a cluster elsewhere belongs. initdb accepts no file within the cluster."""
        return self.cluster.with_name(f"{self.cluster.name}.owner")

    def _claim_cluster(self) -> None:
        """Record the folder of a cluster that is elsewhere. Raises `ConfigurationError` if it belongs to another folder."""
        if not self._lies_elsewhere or self._fast:
            return
        if other := self._find_other_owner():
            raise ConfigurationError(
                f"{self.directory} is a copy of {other}, whose database lies in {self.cluster} and was not copied with it. "
                f"Remove {self.directory} to begin with an empty database, which pg_dump and pg_restore can fill"
            )
        write_atomically(self._owner_note, f"{self.directory}\n")

    def _find_other_owner(self) -> Path | None:
        """Return the other folder to which a cluster elsewhere belongs, or None if it belongs to this one."""
        if not self._lies_elsewhere or not self._owner_note.exists():
            return None
        noted = Path(self._owner_note.read_text(encoding="utf-8").removesuffix("\n"))
        if noted.exists() and self.directory.exists() and noted.samefile(self.directory):
            return None
        # At the old place of a moved folder there is nothing, or a folder with another cluster.
        named = read_memory(noted / _MEMORY_NAME).get("cluster")
        return noted if named == str(self.cluster) else None

    def _initialise(self, account: Account | None) -> None:
        """Run initdb. Raises `ServerFailed` with its output."""
        # An earlier run may have been killed during this.
        for left in self.cluster.iterdir():
            shutil.rmtree(left) if left.is_dir() and not left.is_symlink() else left.unlink()
        password_file = Path(self._memory["socket_folder"]) / "password"
        password_file.touch(mode=0o600)
        try:
            password_file.write_text(self._memory["password"] + "\n", encoding="ascii")
            if account is not None:
                os.chown(password_file, account.uid, account.gid)
            argv = [str(find_binaries(account) / "initdb"), "--pgdata", str(self.cluster), "--username", USER]
            argv += ["--pwfile", str(password_file), "--auth", "scram-sha-256", "--encoding", "UTF8"]
            argv += ["--locale", "C", "--locale-provider", "builtin", "--builtin-locale", "C.UTF-8"]
            if self._fast:
                argv.append("--no-sync")
            outcome = subprocess.run(
                argv,
                env=_environment(),
                cwd="/",
                stdin=subprocess.DEVNULL,
                capture_output=True,
                user=account.uid if account else None,
                group=account.gid if account else None,
                extra_groups=[] if account else None,
            )
        finally:
            password_file.unlink()
        if outcome.returncode != 0:
            output = (outcome.stdout + outcome.stderr).decode(errors="replace")[-2000:].strip()
            raise ServerFailed(f"initdb failed in {self.cluster}:\n{output}")


def _environment() -> dict[str, str]:
    return {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "TZ": "UTC"}


def _works_in(process: psutil.Process, cluster: str) -> bool:
    import psutil

    try:
        return process.cwd() == cluster and process.name().startswith("postgres")
    except psutil.Error:
        return False
