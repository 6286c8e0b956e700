"""The parts of a stack, their commands and their environment."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path

from cli.local_stack.broker import BrokerServer
from cli.local_stack.child_process import Command
from cli.local_stack.data_directory import DataDirectory
from cli.local_stack.free_ports import find_first_unprivileged_port, is_of_this_machine, try_to_listen
from cli.local_stack.owned_files import make_folder
from cli.local_stack.part_account import decide_account, find_own_storage, may_hand_over
from cli.local_stack.part_folders import PartFolders
from cli.local_stack.postgres import PostgresServer
from cli.local_stack.process_record import MARK
from cli.local_stack.ready_file import PARTS, ReadyFile
from cli.local_stack.supervisor import Part
from shared.contracts.kind import QUEUES
from shared.errors import ConfigurationError
from shared.ready_notice import NOTIFY_SOCKET_VARIABLE

_CORES = os.cpu_count() or 1
_CONCURRENCY = {"files": max(2, _CORES), "email": 4, "webhooks": 16}
_DEFAULT_CONCURRENCY = 2
"""How many attempts the worker of any other queue runs at a time."""
_WORKERS = tuple(f"worker-{queue}" for queue in QUEUES)

STOP_STAGES = (("api",), ("beat", "flower", *_WORKERS), ("relay",), ("mail", "broker"), ("postgres",))
"""The order in which parts stop: first the API, then what submits and runs tasks, and the servers last."""

STOP_LIMIT_SECONDS = 18.5
_PATIENCE_SECONDS = {
    "api": 2.5,
    # Longer than the time in which a worker finishes or requeues its tasks (`_LONGEST_GRACE_SECONDS`).
    **dict.fromkeys(_WORKERS, 10.5),
    "beat": 2.0,
    "flower": 2.0,
    "relay": 2.5,
    "mail": 1.0,
    "broker": 1.5,
    "postgres": 4.0,
}

_HOSTS = "TASKMILL_ALLOWED_HOSTS"
_GRACE = "TASKMILL_SHUTDOWN_GRACE_SECONDS"
_LONGEST_GRACE_SECONDS = 8.0
"""The longest time that a worker may finish its tasks, whatever the setting, since the stack stops within 20 s."""

_OWNER_URL = "TASKMILL_DATABASE_OWNER_URL"
_REPLACING = {"postgres": "TASKMILL_DATABASE_URL", "broker": "TASKMILL_BROKER_URL", "mail": "TASKMILL_SMTP_URL"}
"""The variables by which a server of the user replaces a built-in one."""


class StackPlan:
    """The parts of the stack on one data directory, and the environment that they share."""

    def __init__(self, directory: DataDirectory, host: str) -> None:
        self._directory = directory
        self._host = host
        self.ports: dict[str, int] = {}
        self.promised: set[int] = set()
        self._replaced = {part for part, variable in _REPLACING.items() if os.environ.get(variable)}
        self._environment: dict[str, str] = {}
        self._owner_url: str | None = None
        self.runs_as = decide_account(os.environ)
        self._folders = PartFolders(directory, self.runs_as.account)
        self.mark = directory.secret("mark")
        self.api_key_file = directory.path / "api_key"
        self.postgres = (
            None if "postgres" in self._replaced else PostgresServer(directory.path / "postgres", self.promised)
        )

    @cached_property
    def broker(self) -> BrokerServer | None:
        """The built-in broker, or None if a server of the user replaces it."""
        if "broker" in self._replaced:
            return None
        return BrokerServer(self._folders.folder("broker"), self.promised, self.runs_as.account)

    def choose_ports(self, api_port: int) -> None:
        """Choose the ports, each as at the last start if it is free. `api_port` 0 means any free one.

        Raises `ConfigurationError` if the API cannot listen on its port or host.
        """
        if not is_of_this_machine(self._host):
            raise ConfigurationError(
                f"{self._host} is not an address of this machine: choose another --host, such as 127.0.0.1, or 0.0.0.0 for all"
            )
        if api_port:
            self._require_port(api_port)
        self.ports["api"] = api_port or self._directory.port("api_port", self._host)
        self.promised.add(self.ports["api"])
        for use in ("flower", "smtp", "mail_page"):
            self.ports[use] = self._directory.port(f"{use}_port", promised=self.promised)
            self.promised.add(self.ports[use])

    def _require_port(self, port: int) -> None:
        """Raise `ConfigurationError` when the API could not listen on the port."""
        first = find_first_unprivileged_port()
        if port < first and (self.runs_as.account or os.geteuid() != 0):
            raise ConfigurationError(
                f"Port {port} is not permitted: the API would run as {self.runs_as.name}, which may not listen below port "
                f"{first}. Choose another --port, and put nginx in front if clients need port {port} (docs/production.md)"
            )
        try:
            try_to_listen(port, self._host)
        except PermissionError:
            raise ConfigurationError(
                f"Port {port} of {self._host} is not permitted to {self.runs_as.name}: choose another --port"
            ) from None
        except OSError as error:
            raise ConfigurationError(
                f"Port {port} of {self._host} is taken ({error.strerror}): stop what listens there, or choose another --port "
                "(0 for any that is free)"
            ) from None

    def settle_environment(self) -> None:
        """Compose the environment of the parts, after the servers are prepared. Variables of the user come first."""
        project = str(Path(__file__).resolve().parents[2])
        defaults = {
            "TASKMILL_STORAGE_URL": self._folders.folder("objects").as_uri(),
            "TASKMILL_SMTP_URL": f"smtp://127.0.0.1:{self.ports['smtp']}",
            "TASKMILL_FLOWER_USER": "operator",
            "TASKMILL_FLOWER_PASSWORD": self._directory.secret("flower_password"),
            "TASKMILL_SECRET_KEY": self._directory.secret("secret_key"),
            "TASKMILL_SCRATCH_DIR": str(self._folders.folder("scratch")),
            "TASKMILL_LOG_FORMAT": "console" if sys.stdout.isatty() else "json",
        }
        if self.postgres:
            defaults["TASKMILL_DATABASE_URL"] = self.postgres.app_url
        if self.broker:
            defaults["TASKMILL_BROKER_URL"] = self.broker.url
        given = {name: value for name, value in os.environ.items() if value or name not in defaults}
        # The password of the role that owns the tables is for the migration alone, and no part that runs gets it.
        given_owner_url = given.pop(_OWNER_URL, "")
        self._owner_url = self.postgres.url if self.postgres else given_owner_url or None
        own = {
            "TASKMILL_FLOWER_HOST": "127.0.0.1",
            "TASKMILL_FLOWER_PORT": str(self.ports["flower"]),
            "PYTHONPATH": os.pathsep.join(filter(None, [project, os.environ.get("PYTHONPATH")])),
            # No module may be imported from the working directory.
            "PYTHONSAFEPATH": "1",
            "PYTHONUNBUFFERED": "1",
            MARK: self.mark,
        }
        if (storage := find_own_storage(given)) and may_hand_over(storage):
            self._folders.hand_over(make_folder(storage), str(storage))
        if hosts := given.get(_HOSTS):
            # The stack itself, and programs that read the ready file, use these names.
            own[_HOSTS] = ",".join(dict.fromkeys([*hosts.split(","), self._api_host, "localhost"]))
        if grace := given.get(_GRACE):
            own[_GRACE] = _shorten_grace(grace)
        self._environment = defaults | given | own

    def postgres_part(self, server: PostgresServer) -> Part:
        """Return the built-in database, after its `prepare`."""
        return self._part("postgres", self._marked(server.command()), server.clear_remains)

    def broker_part(self, server: BrokerServer) -> Part:
        """Return the built-in broker, after its `prepare`."""
        self.promised.add(server.port)
        return self._part("broker", self._marked(server.command()), server.clear_remains)

    def mail_part(self) -> Part | None:
        """Return the mail sink, or None if a server of the user receives the mail."""
        if "mail" in self._replaced:
            return None
        arguments = ["--directory", str(self._folders.folder("mail")), "--smtp-port", str(self.ports["smtp"])]
        arguments += ["--page-port", str(self.ports["mail_page"])]
        return self._part("mail", self._python("cli.local_stack.mail_sink", *arguments))

    def first_steps(self) -> Part:
        """Return the process that prepares the database before the parts start."""
        arguments = ["--api-key-file", str(self.api_key_file)]
        if self.postgres:
            arguments += ["--postgres-directory", str(self.postgres.directory)]
        # It keeps the key of the admin in the data directory, so it runs as the user who started the stack.
        environment = dict(self._environment) | ({_OWNER_URL: self._owner_url} if self._owner_url else {})
        argv = (sys.executable, "-m", "cli.local_stack.first_steps", *arguments)
        return self._part("migrate", Command(argv, environment, directory=self._directory.path))

    def list_front_parts(self) -> list[Part]:
        """Return the API, the parts that it needs to be ready, and Flower."""
        api = self._python("cli.main", "api", "--host", self._host, "--port", str(self.ports["api"]), "--workers", "1")
        others = [self._part(name, self._python("cli.main", name)) for name in ("relay", "beat", "flower")]
        return [self._part("api", api), *others]

    def list_workers(self, open_notice_socket: Callable[[str], Path]) -> list[Part]:
        """Return a worker for each queue, which sends a notice to a socket of its own once it works."""
        workers = []
        for queue in QUEUES:
            name, concurrency = f"worker-{queue}", _CONCURRENCY.get(queue, _DEFAULT_CONCURRENCY)
            command = self._python("cli.main", "worker", "--queues", queue, "--concurrency", str(concurrency))
            environment = {**command.environment, NOTIFY_SOCKET_VARIABLE: str(open_notice_socket(name))}
            workers.append(self._part(name, replace(command, environment=environment)))
        return workers

    def is_database_prepared(self) -> bool:
        """Return whether an earlier start has already prepared this cluster for this version."""
        done = self.postgres and self.postgres.recall("prepared_by")
        return self.api_key_file.exists() and done == _fingerprint_of_first_steps()

    def note_database_prepared(self) -> None:
        """Store with the cluster that it is prepared, so that another cluster in its place is prepared again."""
        if self.postgres:
            self.postgres.remember("prepared_by", _fingerprint_of_first_steps())

    @property
    def api_address(self) -> tuple[str, int]:
        """The host and the port by which this machine reaches the API."""
        # An address that stands for all of them cannot be connected to.
        host = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}.get(self._host, self._host)  # noqa: S104
        return host, self.ports["api"]

    @property
    def _api_host(self) -> str:
        """The host of the API as it is written in a URL."""
        host, _ = self.api_address
        return f"[{host}]" if ":" in host else host

    @property
    def listeners(self) -> dict[str, int]:
        """The loopback ports that must accept connections before the stack is ready, by name."""
        listeners = {"flower": self.ports["flower"]}
        if "mail" not in self._replaced:
            listeners |= {"mail": self.ports["smtp"], "the mail page": self.ports["mail_page"]}
        return listeners

    def describe(self, find_pid: Callable[[str], int | None], api_key: str) -> ReadyFile:
        """Return the content of the ready file."""
        environment = self._environment
        prefix = environment.get("TASKMILL_FLOWER_URL_PREFIX", "").strip("/")
        own_mail = "mail" not in self._replaced
        pids = {part: find_pid(part) for part in PARTS}
        return ReadyFile(
            api_url=f"http://{self._api_host}:{self.ports['api']}",
            flower_url=f"http://127.0.0.1:{self.ports['flower']}" + (f"/{prefix}" if prefix else ""),
            flower_user=environment["TASKMILL_FLOWER_USER"],
            flower_password=environment["TASKMILL_FLOWER_PASSWORD"],
            mail_url=f"http://127.0.0.1:{self.ports['mail_page']}" if own_mail else None,
            mail_dir=str(self._folders.folder("mail")) if own_mail else None,
            api_key=api_key,
            database_url=environment["TASKMILL_DATABASE_URL"],
            database_owner_url=self._owner_url,
            broker_url=environment["TASKMILL_BROKER_URL"],
            storage_url=environment["TASKMILL_STORAGE_URL"],
            pids={part: None if pid is None else [pid] for part, pid in pids.items()},
        )

    def _part(self, name: str, command: Command, clear_remains: Callable[[], None] = lambda: None) -> Part:
        return Part(name, command, clear_remains, _PATIENCE_SECONDS.get(name, 3.0))

    def _python(self, module: str, *arguments: str) -> Command:
        account = self.runs_as.account
        return Command(
            (self.runs_as.python.program, "-m", module, *arguments),
            {**self._environment, **self.runs_as.environment},
            directory=Path("/") if account else self._directory.path,
            account=account,
        )

    def _marked(self, command: Command) -> Command:
        environment: Mapping[str, str] = {**command.environment, MARK: self.mark}
        return replace(command, environment=environment)


def _shorten_grace(given: str) -> str:
    try:
        return str(min(float(given), _LONGEST_GRACE_SECONDS))
    except ValueError:
        # Each part reports what is wrong with it.
        return given


def _fingerprint_of_first_steps() -> str:
    """Return a digest of everything that the first steps do to a database: the migrations and the rights of the role."""
    project = Path(__file__).resolve().parents[2]
    rights = [project / "shared" / "database" / "app_role.py", project / "shared" / "queries" / "roles.py"]
    digest = hashlib.sha256()
    migrations = project / "migrations"
    for path in [*sorted(migrations.glob("versions/*.py")), *sorted(migrations.glob("functions/*/*.sql")), *rights]:
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()
