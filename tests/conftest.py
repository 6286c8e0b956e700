"""Fixtures that all tests share: a real Postgres and a real Valkey for each test process, a new database for each test.

- `settings` names the database, the broker and the storage of the test.
- `api` serves them over HTTP.
- `parts` starts other parts (relay, worker, beat) as processes; `engine_room` starts a relay and a worker.
- `stack` is the whole local stack, which the tests of one process share.
- `eventually` waits for a condition.

Tests name the types of these fixtures with `from tests.conftest import Api, Eventually, Parts, ServeApi`.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TypeVar

import httpx2
import psutil
import psycopg
import pytest
import redis
import uvicorn
from psycopg import sql

from api.app import create_app
from api.serve import IDLE_CONNECTION_SECONDS, PROTOCOLS
from cli.local_stack.broker import BrokerServer
from cli.local_stack.data_directory import remove_data_directory
from cli.local_stack.postgres import PostgresServer
from cli.local_stack.server_process import ServerProcess
from cli.local_stack.stack import BUILT_IN_SERVERS, LocalStack
from shared.api_keys import CreatedKey, Role, create_key
from shared.database.schema_migrations import migrate
from shared.identifiers import new_id
from shared.settings import Settings
from tests.forked_parts import Part, PartServer

ROOT = Path(__file__).resolve().parent.parent
DATA = Path(__file__).resolve().parent / "data"
TEMPLATE = "taskmill_template"
MEMORY_FOLDER = Path("/dev/shm")
"""A file system in memory, which Linux has. In a container it may be too small."""
MEMORY_PREFIX = "taskmill-tests-"
MEMORY_BYTES = 2 << 30
"""How much free memory each process of the tests needs to run its servers in memory."""
PATIENCE_SECONDS = 90
"""How long a test waits for a condition before it fails. On a busy machine, the start of a part may take half a minute."""
LIMIT_SECONDS = 900 if os.environ.get("TEST_LONG_FAULTS") == "1" else 300
"""How long the setup, the call or the teardown of a test may take, each. Waiting for a condition ends sooner."""
SHOWN_BYTES = 4000
"""How many bytes of the end of each log are shown with a failure."""

T = TypeVar("T")


class Eventually(Protocol):
    """The fixture `eventually`."""

    def __call__(self, question: Callable[[], T], seconds: float = PATIENCE_SECONDS) -> T:
        """Call the function until its result is true, and return that result. Fail when it is not true in time."""


@contextlib.contextmanager
def give_up_in_time() -> Iterator[None]:
    """Fail a test that hangs after `LIMIT_SECONDS`, with the stacks of all threads, so that the other tests still run."""

    def give_up(*_: object) -> None:
        faulthandler.dump_traceback(sys.__stderr__ or 2)
        pytest.fail(f"the test took more than {LIMIT_SECONDS} s")

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(LIMIT_SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup() -> Generator[None, object, object]:
    with give_up_in_time():
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Generator[None, object, object]:
    with give_up_in_time():
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown() -> Generator[None, object, object]:
    with give_up_in_time():
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add the end of the log of each server of the test to the report of a failure."""
    report = yield
    if report.failed:
        for log in list_logs(getattr(item, "funcargs", {})):
            text = log.read_bytes()[-SHOWN_BYTES:].decode("utf-8", "replace").strip()
            if text:
                report.sections.append((f"end of {log.parent.name}/{log.name}", text))
    return report


def list_logs(fixtures: Mapping[str, object]) -> list[Path]:
    """Return the logs in the folder of a test, and those of the servers that it shares with other tests."""
    servers = [fixture for fixture in fixtures.values() if isinstance(fixture, LocalStack | ServerProcess)]
    logs = {server.log_path for server in servers if server.log_path.exists()}
    folder = fixtures.get("tmp_path")
    return sorted(logs.union(folder.rglob("*.log") if isinstance(folder, Path) else ()))


@pytest.fixture(scope="session")
def server_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of the servers of this process, in memory where the system has room for it.

    On a disk, creating and dropping the database of a test takes ten times the processor time.
    """
    if not _has_room(MEMORY_FOLDER):
        yield tmp_path_factory.mktemp("servers")
        return
    for left in MEMORY_FOLDER.glob(f"{MEMORY_PREFIX}*"):
        # A run that was killed has left its folder.
        if not psutil.pid_exists(int(left.name.removeprefix(MEMORY_PREFIX).partition("-")[0])):
            shutil.rmtree(left, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=f"{MEMORY_PREFIX}{os.getpid()}-", dir=MEMORY_FOLDER))
    # Postgres, started by root, runs as another account, which must be able to reach its files.
    folder.chmod(0o711)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def _has_room(folder: Path) -> bool:
    return os.access(folder, os.W_OK) and shutil.disk_usage(folder).free > MEMORY_BYTES


@pytest.fixture(scope="session")
def postgres_server(server_folder: Path) -> Iterator[PostgresServer]:
    """A Postgres without durability, which makes it faster. It has a migrated template database."""
    with PostgresServer(server_folder / "postgres", fast=True) as server:
        with psycopg.connect(server.url, autocommit=True) as connection:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(TEMPLATE)))
        migrate(Settings(database_url=_with_database(server.url, TEMPLATE)))
        yield server


@pytest.fixture(scope="session")
def broker_server(server_folder: Path) -> Iterator[BrokerServer]:
    """A Valkey."""
    with BrokerServer(server_folder / "broker") as server:
        yield server


def _with_database(url: str, name: str) -> str:
    return url.rsplit("/", 1)[0] + "/" + name


@contextlib.contextmanager
def new_database(server: PostgresServer) -> Iterator[str]:
    """Create a database with all tables, yield its URL, and drop it at the end."""
    name = f"test_{new_id().hex}"
    # Postgres copies files faster than it copies pages through its write-ahead log, which is its default.
    create = sql.SQL("CREATE DATABASE {} TEMPLATE {} STRATEGY FILE_COPY")
    with psycopg.connect(server.url, autocommit=True) as connection:
        connection.execute(create.format(sql.Identifier(name), sql.Identifier(TEMPLATE)))
        yield _with_database(server.url, name)
        connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@pytest.fixture
def database_url(postgres_server: PostgresServer) -> Iterator[str]:
    """A new database with all tables, which is dropped after the test."""
    with new_database(postgres_server) as url:
        yield url


@pytest.fixture
def broker_url(broker_server: BrokerServer) -> str:
    """An empty broker."""
    with redis.Redis.from_url(broker_server.url) as client:
        client.flushall()
    return broker_server.url


@pytest.fixture
def settings(database_url: str, broker_url: str, tmp_path: Path) -> Settings:
    """Settings with the database, broker and storage of this test, and with short times."""
    return Settings(
        database_url=database_url,
        broker_url=broker_url,
        storage_url=f"file://{tmp_path}/objects",
        scratch_dir=tmp_path / "scratch",
        lease_seconds=2,
        rering_seconds=2,
        shutdown_grace_seconds=2,
        rate_limit_client=100_000,
        rate_limit_sign_in=100_000,
        rate_limit_sign_in_account=100_000,
    )


@dataclass
class Api:
    """An API that is served over HTTP, and its clients."""

    url: str
    settings: Settings
    _clients: list[httpx2.Client] = field(default_factory=list)

    def client(
        self, name: str = "someone", role: Role = "client", scopes: Iterable[str] | None = None
    ) -> httpx2.Client:
        """Return a client with a new key. Clients of two names cannot see each other's tasks and files."""
        return self.client_with(self.key(name, role, scopes).key)

    def key(self, name: str = "someone", role: Role = "client", scopes: Iterable[str] | None = None) -> CreatedKey:
        """Create a key and return it."""
        return create_key(self.settings, name, role, scopes)

    def client_with(self, key: str | None) -> httpx2.Client:
        """Return a client with the given key, or without one."""
        headers = {"Authorization": f"Bearer {key}"} if key is not None else {}
        client = httpx2.Client(base_url=self.url, headers=headers, timeout=70)
        self._clients.append(client)
        return client

    def close(self) -> None:
        for client in self._clients:
            client.close()


class ServeApi(Protocol):
    """What fixtures return that serve an API with the settings of the test, for as long as the `with` block lasts."""

    def __call__(self, settings: Settings) -> AbstractContextManager[Api]: ...


@contextlib.contextmanager
def serve_api(settings: Settings) -> Iterator[Api]:
    """Serve the API in a thread of this process, for as long as the `with` block lasts."""
    config = uvicorn.Config(
        create_app(settings),
        port=0,
        **PROTOCOLS,
        log_config=None,
        lifespan="on",
        # Longer than clients keep an idle connection, so that the server never closes one that a client begins to use.
        timeout_keep_alive=IDLE_CONNECTION_SECONDS,
    )
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        while not server.started:
            assert thread.is_alive(), "the API did not start"
            time.sleep(0.01)
        api = Api(f"http://127.0.0.1:{listening.getsockname()[1]}", settings)
        try:
            yield api
        finally:
            api.close()
            server.should_exit = True
            thread.join(timeout=PATIENCE_SECONDS)
            assert not thread.is_alive(), "the API did not stop"


@pytest.fixture
def api(settings: Settings) -> Iterator[Api]:
    """The API on the servers of the test, without workers."""
    with serve_api(settings) as served:
        yield served


def part_environment(settings: Settings) -> dict[str, str]:
    """Return the environment variables from which a part reads these settings."""
    values = settings.model_dump(mode="json", exclude_unset=True)
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith("TASKMILL_")},
        **{f"TASKMILL_{name.upper()}": str(value) for name, value in values.items()},
        "PYTHONUNBUFFERED": "1",
    }


class Parts:
    """Parts of the platform as processes. The fixture stops them after the test."""

    def __init__(self, settings: Settings, folder: Path, server: PartServer | None) -> None:
        self.settings = settings
        self.folder = folder
        self._server = server
        self.processes: list[Part] = []

    def start(self, *arguments: str, environment: Mapping[str, str] | None = None) -> Part:
        """Start `taskmill <arguments>` and return its process. It writes its log to the folder of the test."""
        added = dict(environment or {})
        whole = {**part_environment(self.settings), **added}
        log = self.folder / f"{len(self.processes)}-{arguments[0]}.log"
        # An interpreter reads its own variables (PYTHON…) only when it starts, so a fork would ignore them.
        if self._server is None or any(name.startswith("PYTHON") for name in added):
            process: Part = self._start_python(["-m", "cli.main", *arguments], whole, log)
        else:
            process = self._server.start(arguments, whole, log)
        self.processes.append(process)
        return process

    def start_script(self, script: str) -> subprocess.Popen[bytes]:
        """Start Python with a script, for a part in which the test replaces something."""
        log = self.folder / f"{len(self.processes)}-script.log"
        process = self._start_python(["-c", script], part_environment(self.settings), log)
        self.processes.append(process)
        return process

    @staticmethod
    def _start_python(arguments: Sequence[str], environment: Mapping[str, str], log: Path) -> subprocess.Popen[bytes]:
        with log.open("wb") as output:
            return subprocess.Popen(
                [sys.executable, *arguments], cwd=ROOT, env=environment, stdout=output, stderr=output
            )

    def start_worker(self, queues: str = "files,reports,email,webhooks,maintenance", concurrency: int = 2) -> Part:
        """Start a worker for the queues and return its process."""
        return self.start("worker", "--queues", queues, "--concurrency", str(concurrency))

    def logs(self) -> str:
        """Return the logs of all parts, one after the other."""
        return "\n".join(path.read_text(errors="replace") for path in sorted(self.folder.glob("*.log")))

    def stop(self) -> None:
        """Stop every part, and kill those that have not ended after ten seconds."""
        for process in self.processes:
            if process.poll() is None:
                process.terminate()
        for process in self.processes:
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@pytest.fixture(scope="session")
def part_server() -> Iterator[PartServer | None]:
    """The process from which parts are forked. None on macOS, which lacks such sockets and whose libraries cannot fork."""
    if sys.platform != "linux":
        yield None
        return
    with PartServer() as server:
        yield server


class RunTaskmill(Protocol):
    """The fixture `taskmill`."""

    def __call__(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run `taskmill <arguments>` to its end, without the settings of this process and with this environment."""


@pytest.fixture(scope="session")
def taskmill(part_server: PartServer | None, tmp_path_factory: pytest.TempPathFactory) -> RunTaskmill:
    """Runs commands, as forks where that is possible."""

    def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        inherited = {
            name: value for name, value in os.environ.items() if name != "COLUMNS" and not name.startswith("TASKMILL_")
        }
        whole = {"COLUMNS": "200", **inherited, **environment}
        folder = tmp_path_factory.mktemp("command")
        output, errors = folder / "output", folder / "errors"
        if part_server is None or any(name.startswith("PYTHON") for name in environment):
            argv = [sys.executable, "-m", "cli.main", *arguments]
            with output.open("wb") as out, errors.open("wb") as err:
                code = subprocess.run(argv, env=whole, stdout=out, stderr=err, timeout=PATIENCE_SECONDS).returncode
        else:
            code = part_server.start(arguments, whole, output, errors).wait(PATIENCE_SECONDS)
        return subprocess.CompletedProcess(arguments, code, output.read_text(), errors.read_text())

    return run


@pytest.fixture
def parts(settings: Settings, tmp_path: Path, part_server: PartServer | None) -> Iterator[Parts]:
    """Starts parts as processes on the servers of the test."""
    folder = tmp_path / "logs"
    folder.mkdir()
    parts = Parts(settings, folder, part_server)
    try:
        yield parts
    finally:
        parts.stop()


@pytest.fixture
def engine_room(parts: Parts) -> Parts:
    """A relay and a worker for every queue, running."""
    parts.start("relay")
    parts.start_worker()
    return parts


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalStack]:
    """The whole local stack, running."""
    # Receivers of webhooks listen on loopback, and the guide invites people.
    environment = {**BUILT_IN_SERVERS, "TASKMILL_ALLOWED_NETWORKS": "127.0.0.0/8", "TASKMILL_REGISTRATION": "invite"}
    with LocalStack(tmp_path_factory.mktemp("stack"), environment=environment) as running:
        yield running
    # Pytest deletes its own folders. When root runs the tests, the cluster and the objects are outside of them.
    remove_data_directory(running.data_dir)


@pytest.fixture
def stack_client(stack: LocalStack) -> Iterator[httpx2.Client]:
    """A client of the stack with the key of its admin."""
    ready = stack.ready
    headers = {"Authorization": f"Bearer {ready['api_key']}"}
    with httpx2.Client(base_url=ready["api_url"], headers=headers, timeout=70) as client:
        yield client


def wait_until_true(question: Callable[[], T], seconds: float = PATIENCE_SECONDS) -> T:
    """Call the function until its result is true, and return that result. Fail when it is not true in time."""
    deadline = time.monotonic() + seconds
    for pause_seconds in growing_pauses():
        if answer := question():
            return answer
        assert time.monotonic() < deadline, f"the condition was not true within {seconds} s"
        time.sleep(pause_seconds)
    raise AssertionError("the pauses never end")


def growing_pauses() -> Iterator[float]:
    """Yield pauses in seconds, from short ones to those that leave the processor to what is waited for."""
    pause_seconds = 0.01
    while True:
        yield pause_seconds
        pause_seconds = min(pause_seconds * 1.3, 0.2)


def stays_true(question: Callable[[], object], seconds: float) -> bool:
    """Return whether the result of the function is true at each of many calls, from now on for so many seconds."""
    deadline = time.monotonic() + seconds
    while question():
        if time.monotonic() >= deadline:
            return True
        time.sleep(0.02)
    return False


@pytest.fixture
def eventually() -> Eventually:
    """Waits for a condition: `eventually(lambda: …)` returns the first result that is true."""
    return wait_until_true
