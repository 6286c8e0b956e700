"""`taskmill up`: the whole local stack, under the supervisor, until it is told to stop."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cli.local_stack.broker import BrokerServer
from cli.local_stack.child_process import Command
from cli.local_stack.data_directory import DataDirectory
from cli.local_stack.free_ports import is_free
from cli.local_stack.log_printer import LogPrinter
from cli.local_stack.postgres import PostgresServer
from cli.local_stack.process_record import MARK, ProcessRecord
from cli.local_stack.ready_file import PARTS, ReadyFile
from cli.local_stack.server_process import ServerFailed
from cli.local_stack.supervisor import Part, Supervisor
from shared.errors import ConfigurationError

_POLL_SECONDS = 0.05
_COMPLAINT_SECONDS = 15
_STOP_LIMIT_SECONDS = 17
_CORES = os.cpu_count() or 1
_WORKER_CONCURRENCY = {"files": max(2, _CORES), "reports": 2, "email": 4, "maintenance": 2}
_WORKERS = tuple(f"worker-{queue}" for queue in _WORKER_CONCURRENCY)

_STOP_STAGES = (("api",), ("beat", "flower", *_WORKERS), ("relay",), ("mail", "broker"), ("postgres",))
"""First the door, then those who make work, those who do it, and last what all of them stand on."""

_PATIENCE_SECONDS = {"api": 3.0, "relay": 2.0, "mail": 1.0, "broker": 1.5, "postgres": 4.0} | dict.fromkeys(
    _WORKERS, 9.5
)
_REPLACING = {
    "postgres": "TASKMILL_DATABASE_URL",
    "broker": "TASKMILL_BROKER_URL",
    "mail": "TASKMILL_SMTP_URL",
}
"""The variables by which a server of the user's own takes a built-in one's place."""


@dataclass(frozen=True)
class UpOptions:
    """What `taskmill up` was told. `port` 0 is any free one."""

    data_dir: Path
    host: str = "127.0.0.1"
    port: int = 8000
    ready_file: Path | None = None


def run_up(options: UpOptions) -> int:
    """Run the stack until SIGTERM, SIGINT or SIGHUP, and answer the exit code.

    Raises `ConfigurationError` when it cannot start: another stack on the directory, a port that is taken.
    """
    with DataDirectory(options.data_dir) as directory:
        printer = LogPrinter(width=max(map(len, PARTS)))
        try:
            return asyncio.run(_Stack(options, directory, printer).run())
        finally:
            printer.close()


class _Stack:
    def __init__(self, options: UpOptions, directory: DataDirectory, printer: LogPrinter) -> None:
        self._options = options
        self._directory = directory
        self._printer = printer
        self._own_servers = {part for part, variable in _REPLACING.items() if os.environ.get(variable)}
        self._mark = directory.secret("mark")
        self._record = ProcessRecord(directory.path / "processes.json", self._mark)
        self._api_key_file = directory.path / "api_key"
        self._postgres = PostgresServer(directory.path / "postgres")
        self._broker = BrokerServer(directory.path / "broker")
        self._ready: ReadyFile | None = None
        self._ports: dict[str, int] = {}

    async def run(self) -> int:
        began = time.monotonic()
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        supervisor = Supervisor(self._printer, self._record, on_restart=self._write_ready_file)
        self._supervisor = supervisor

        def receive(number: signal.Signals) -> None:
            if stop.is_set():
                supervisor.hurry()
            else:
                self._printer.say("taskmill", f"Stopping ({number.name}); once more to hurry")
                stop.set()

        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, receive, number)
        self._prepare()
        stopped = asyncio.create_task(stop.wait())
        work = asyncio.create_task(self._start_and_watch(began))
        try:
            await asyncio.wait({stopped, work}, return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                return 0
            # It ends by itself only by failing.
            work.result()
            return 1
        except ServerFailed as error:
            self._printer.say("taskmill", str(error))
            return 1
        finally:
            stop.set()
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)
            await supervisor.stop(_STOP_STAGES, _STOP_LIMIT_SECONDS)
            self._postgres.remove_socket_folder()

    def _prepare(self) -> None:
        """Clear away what an earlier run left, choose the ports and the settings of all parts."""
        if ended := self._record.end_earlier():
            self._printer.say("taskmill", f"{ended} processes of an earlier run, which was killed, have been ended")
        for path in self._ready_paths():
            if not path.parent.is_dir():
                raise ConfigurationError(f"The ready file cannot be written: there is no folder {path.parent}")
            path.unlink(missing_ok=True)
        port = self._options.port
        if port and not is_free(port, self._options.host):
            raise ConfigurationError(
                f"Port {port} of {self._options.host} is taken: stop what listens there, or choose another --port "
                "(0 for any that is free)"
            )
        self._ports["api"] = port or self._directory.port("api_port", self._options.host)
        for use in ("flower", "smtp", "mail_page"):
            self._ports[use] = self._directory.port(f"{use}_port")

    async def _start_and_watch(self, began: float) -> None:
        supervisor = self._supervisor
        if "broker" not in self._own_servers:
            self._broker.prepare()
            await supervisor.start(Part("broker", self._marked(self._broker.command()), patience_seconds=1.5))
        if "postgres" not in self._own_servers:
            # At the first start it makes the cluster, which takes a second or two: in a thread, so that signals count.
            await asyncio.to_thread(self._postgres.prepare)
            await supervisor.start(
                Part(
                    "postgres",
                    self._marked(self._postgres.command()),
                    clear_remains=self._postgres.clear_remains,
                    patience_seconds=_PATIENCE_SECONDS["postgres"],
                )
            )
        environment = self._environment()
        if "mail" not in self._own_servers:
            await supervisor.start(self._mail(environment))
        first_steps = [*_python("cli.local_stack.first_steps"), "--api-key-file", str(self._api_key_file)]
        if "postgres" not in self._own_servers:
            first_steps += ["--postgres-directory", str(self._postgres.directory)]
        code = await supervisor.run_once(Part("migrate", self._command(first_steps, environment)))
        if code != 0:
            raise ServerFailed("The database could not be prepared; what went wrong stands above")
        if "broker" not in self._own_servers:
            while not self._broker.is_ready():  # noqa: ASYNC110 - a server in another process sets no event.
                await asyncio.sleep(_POLL_SECONDS)
        for name, arguments in self._python_parts().items():
            command = self._command([*_python("cli.main"), *arguments], environment)
            await supervisor.start(Part(name, command, patience_seconds=_PATIENCE_SECONDS.get(name, 3.0)))
        await self._wait_until_ready()
        self._ready = self._describe(environment)
        self._write_ready_file()
        self._announce(time.monotonic() - began)
        await supervisor.wait_for_fault()

    def _python_parts(self) -> dict[str, list[str]]:
        parts = {
            "api": ["api", "--host", self._options.host, "--port", str(self._ports["api"]), "--workers", "1"],
            "relay": ["relay"],
            "beat": ["beat"],
        }
        for queue, concurrency in _WORKER_CONCURRENCY.items():
            parts[f"worker-{queue}"] = ["worker", "--queues", queue, "--concurrency", str(concurrency)]
        return parts | {"flower": ["flower"]}

    def _mail(self, environment: Mapping[str, str]) -> Part:
        argv = [*_python("cli.local_stack.mail_sink"), "--directory", str(self._directory.folder("mail"))]
        argv += ["--smtp-port", str(self._ports["smtp"]), "--page-port", str(self._ports["mail_page"])]
        return Part("mail", self._command(argv, environment), patience_seconds=_PATIENCE_SECONDS["mail"])

    def _environment(self) -> dict[str, str]:
        """The environment of every part: the user's, where it says something, and else the stack's own."""
        project = str(Path(__file__).resolve().parents[2])
        defaults = {
            "TASKMILL_STORAGE_URL": self._directory.folder("objects").as_uri(),
            "TASKMILL_SMTP_URL": f"smtp://127.0.0.1:{self._ports['smtp']}",
            "TASKMILL_FLOWER_USER": "operator",
            "TASKMILL_FLOWER_PASSWORD": self._directory.secret("flower_password"),
            "TASKMILL_SECRET_KEY": self._directory.secret("secret_key"),
            "TASKMILL_SCRATCH_DIR": str(self._directory.folder("scratch")),
            "TASKMILL_LOG_FORMAT": "console" if sys.stdout.isatty() else "json",
        }
        if "postgres" not in self._own_servers:
            defaults["TASKMILL_DATABASE_URL"] = self._postgres.url
        if "broker" not in self._own_servers:
            defaults["TASKMILL_BROKER_URL"] = self._broker.url
        given = {name: value for name, value in os.environ.items() if value or name not in defaults}
        search_path = os.pathsep.join(filter(None, [project, os.environ.get("PYTHONPATH")]))
        return (
            defaults
            | given
            | {
                "TASKMILL_FLOWER_PORT": str(self._ports["flower"]),
                "PYTHONPATH": search_path,
                # The working directory is the data directory, and no module is to be found there.
                "PYTHONSAFEPATH": "1",
                "PYTHONUNBUFFERED": "1",
                MARK: self._mark,
            }
        )

    def _command(self, argv: list[str], environment: Mapping[str, str]) -> Command:
        return Command(argv=tuple(argv), environment=environment, directory=self._directory.path)

    def _marked(self, command: Command) -> Command:
        return Command(
            argv=command.argv,
            environment={**command.environment, MARK: self._mark},
            directory=command.directory,
            account=command.account,
            stop_signal=command.stop_signal,
        )

    async def _wait_until_ready(self) -> None:
        """Until `GET /health/ready` answers 200, and Flower and the mail sink take connections.

        Says now and then what is still missing, and goes on: the supervisor may yet bring it up.
        """
        complaint_due = time.monotonic() + _COMPLAINT_SECONDS
        while True:
            status, body = await self._ask_health()
            closed = [part for part, port in self._listeners().items() if not await _accepts(port)]
            if status == 200 and not closed:
                return
            if time.monotonic() > complaint_due:
                missing = f"closed: {', '.join(closed)}" if status == 200 else f"/health/ready: {body or 'no answer'}"
                self._printer.say("taskmill", f"Not ready yet; {missing}")
                complaint_due += _COMPLAINT_SECONDS
            await asyncio.sleep(_POLL_SECONDS)

    def _listeners(self) -> dict[str, int]:
        listeners = {"flower": self._ports["flower"]}
        if "mail" not in self._own_servers:
            listeners |= {"mail": self._ports["smtp"], "mail page": self._ports["mail_page"]}
        return listeners

    async def _ask_health(self) -> tuple[int, str]:
        host = _reachable(self._options.host)
        try:
            async with asyncio.timeout(5):
                reader, writer = await asyncio.open_connection(host, self._ports["api"])
                try:
                    writer.write(f"GET /health/ready HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
                    answer = await reader.read(65536)
                    answer += await reader.read(65536)
                finally:
                    writer.close()
        except (OSError, TimeoutError):
            return 0, ""
        head, _, body = answer.decode("utf-8", errors="replace").partition("\r\n\r\n")
        words = head.split(maxsplit=2)
        return (int(words[1]) if len(words) > 1 and words[1].isdigit() else 0), body[:500]

    def _describe(self, environment: Mapping[str, str]) -> ReadyFile:
        host = _reachable(self._options.host)
        prefix = environment.get("TASKMILL_FLOWER_URL_PREFIX", "").strip("/")
        own_mail = "mail" in self._own_servers
        return ReadyFile(
            api_url=f"http://{f'[{host}]' if ':' in host else host}:{self._ports['api']}",
            flower_url=f"http://127.0.0.1:{self._ports['flower']}" + (f"/{prefix}" if prefix else ""),
            flower_user=environment["TASKMILL_FLOWER_USER"],
            flower_password=environment["TASKMILL_FLOWER_PASSWORD"],
            mail_url=None if own_mail else f"http://127.0.0.1:{self._ports['mail_page']}",
            mail_dir=None if own_mail else str(self._directory.folder("mail")),
            api_key=self._api_key_file.read_text(encoding="ascii").strip(),
            database_url=environment["TASKMILL_DATABASE_URL"],
            broker_url=environment["TASKMILL_BROKER_URL"],
            storage_url=environment["TASKMILL_STORAGE_URL"],
            pids={},
        )

    def _write_ready_file(self) -> None:
        """Write it with the processes of now. Before the stack is ready there is none to write."""
        if self._ready is None:
            return
        self._ready.pids.clear()
        for part in PARTS:
            pid = self._supervisor.find_pid(part)
            self._ready.pids[part] = None if pid is None else [pid]
        for path in self._ready_paths():
            try:
                self._ready.write(path)
            except OSError as error:
                self._printer.say("taskmill", f"{path} cannot be written: {error.strerror}")

    def _ready_paths(self) -> list[Path]:
        own = self._directory.path / "ready.json"
        return [own] if self._options.ready_file is None else [own, self._options.ready_file.absolute()]

    def _announce(self, seconds: float) -> None:
        assert self._ready is not None
        ready = self._ready
        on_terminal = sys.stdout.isatty()
        lines = [
            f"Taskmill is ready after {seconds:.1f} s. Ctrl-C stops it.",
            f"  API     {ready.api_url}" + ("/docs" if on_terminal else ""),
            f"  Flower  {ready.flower_url}  (user {ready.flower_user}"
            + (f", password {ready.flower_password})" if on_terminal else ")"),
        ]
        if ready.mail_url:
            lines.append(f"  Mail    {ready.mail_url}")
        # A log that is kept is not the place for the key.
        lines.append(f"  Key     {ready.api_key if on_terminal else f'in {self._api_key_file}'}")
        self._printer.plain("\n" + "\n".join(lines) + "\n")


def _python(module: str) -> list[str]:
    return [sys.executable, "-m", module]


def _reachable(host: str) -> str:
    """The address at which a server that listens on `host` can be asked from this machine."""
    return {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - it is not bound here.


async def _accepts(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True
