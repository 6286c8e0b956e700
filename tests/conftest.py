"""What tests stand on: a real Postgres and a real Valkey for each test process, a fresh database for each test.

`settings` names the test's own database, broker and storage. `api` serves them over real HTTP. `engine_room` runs a relay
and a worker in processes of their own. `stack` is the whole local stack, shared by the tests of one process that use it.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import psycopg
import pytest
import redis
import uvicorn
from psycopg import sql

from api.app import create_app
from api.http.protocol import HttpProtocol
from api.serve import KEEP_ALIVE_SECONDS
from cli.local_stack.broker import BrokerServer
from cli.local_stack.postgres import PostgresServer
from cli.local_stack.server_process import ServerProcess
from cli.local_stack.stack import LocalStack
from shared.api_keys import CreatedKey, create_key
from shared.database.schema_migrations import migrate
from shared.identifiers import new_id
from shared.settings import Settings
from tests.forked_parts import ForkedPart, PartServer

ROOT = Path(__file__).resolve().parent.parent
DATA = Path(__file__).resolve().parent / "data"
TEMPLATE = "taskmill_template"

LONG = (
    "benchmarks",
    "faults",
    "cli",
    "journeys",
    "workers",
    "deploy",
    "api/test_openapi.py",
    "shared/test_object_store.py",
)
"""Folders and files that take long, most of them for the processes that they start; the longest first."""
PATIENCE_SECONDS = 90
"""How long something that will come is waited for: on a busy machine, a start alone may take half a minute."""
LIMIT_SECONDS = 900 if os.environ.get("TEST_LONG_FAULTS") == "1" else 300
"""How long a test, its preparing or its end may take. What it waits for, it gives up sooner."""
SHOWN_BYTES = 4000
"""How much of the end of each log is shown beside a failure."""


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes long, so that at the end no process is left alone with it."""

    def rank(item: pytest.Item) -> int:
        path = item.path.relative_to(ROOT / "tests")
        return next((place for place, long in enumerate(LONG) if path.is_relative_to(long)), len(LONG))

    items.sort(key=rank)


@contextlib.contextmanager
def give_up_in_time() -> Iterator[None]:
    """Let what hangs fail after a while, with the stacks of all threads, and the other tests go on."""

    def give_up(*_: object) -> None:
        faulthandler.dump_traceback(sys.__stderr__ or 2)
        pytest.fail(f"it took more than {LIMIT_SECONDS} s")

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
    """Show, beside a failure, the end of what each server of the test has said."""
    report = yield
    if report.failed:
        for log in list_logs(getattr(item, "funcargs", {})):
            said = log.read_bytes()[-SHOWN_BYTES:].decode("utf-8", "replace").strip()
            if said:
                report.sections.append((f"end of {log.parent.name}/{log.name}", said))
    return report


def list_logs(fixtures: Mapping[str, Any]) -> list[Path]:
    """The logs that lie in a test's own folder, and those of the servers that it shares with others."""
    servers = [fixture for fixture in fixtures.values() if isinstance(fixture, LocalStack | ServerProcess)]
    logs = {server.log_path for server in servers if server.log_path.exists()}
    return sorted(logs.union(fixtures["tmp_path"].rglob("*.log") if "tmp_path" in fixtures else ()))


@pytest.fixture(scope="session")
def postgres_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    """A Postgres that gives durability up for speed."""
    with PostgresServer(tmp_path_factory.mktemp("postgres"), fast=True) as server:
        with psycopg.connect(server.url, autocommit=True) as connection:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(TEMPLATE)))
        migrate(Settings(database_url=_with_database(server.url, TEMPLATE)))
        yield server


@pytest.fixture(scope="session")
def broker_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrokerServer]:
    """A Valkey."""
    with BrokerServer(tmp_path_factory.mktemp("broker")) as server:
        yield server


def _with_database(url: str, name: str) -> str:
    return url.rsplit("/", 1)[0] + "/" + name


@pytest.fixture
def database_url(postgres_server: PostgresServer) -> Iterator[str]:
    """A fresh database, migrated, that is dropped at the end."""
    name = f"test_{new_id().hex}"
    with psycopg.connect(postgres_server.url, autocommit=True) as connection:
        connection.execute(
            sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(sql.Identifier(name), sql.Identifier(TEMPLATE))
        )
        yield _with_database(postgres_server.url, name)
        connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@pytest.fixture
def broker_url(broker_server: BrokerServer) -> str:
    """An empty broker."""
    with redis.Redis.from_url(broker_server.url) as client:
        client.flushall()
    return broker_server.url


@pytest.fixture
def settings(database_url: str, broker_url: str, tmp_path: Path) -> Settings:
    """Settings of the test's own, with short times."""
    return Settings(
        database_url=database_url,
        broker_url=broker_url,
        storage_url=f"file://{tmp_path}/objects",
        scratch_dir=tmp_path / "scratch",
        lease_seconds=2,
        rering_seconds=2,
        shutdown_grace_seconds=2,
        rate_limit_client=100_000,
    )


@dataclass
class Api:
    """A served API, and clients of it."""

    url: str
    settings: Settings
    _clients: list[httpx2.Client] = field(default_factory=list)

    def client(self, name: str = "someone", role: Any = "client", scopes: Any = None) -> httpx2.Client:
        """A client with a key of its own; two names see nothing of each other."""
        return self.client_with(self.key(name, role, scopes).key)

    def key(self, name: str = "someone", role: Any = "client", scopes: Any = None) -> CreatedKey:
        """A new key."""
        return create_key(self.settings, name, role, scopes)

    def client_with(self, key: str | None) -> httpx2.Client:
        """A client with a given key, or none."""
        headers = {"Authorization": f"Bearer {key}"} if key is not None else {}
        client = httpx2.Client(base_url=self.url, headers=headers, timeout=70)
        self._clients.append(client)
        return client

    def close(self) -> None:
        for client in self._clients:
            client.close()


@contextlib.contextmanager
def serve_api(settings: Settings) -> Iterator[Api]:
    """Serve an API in a thread of this process."""
    config = uvicorn.Config(
        create_app(settings),
        port=0,
        http=HttpProtocol,
        log_config=None,
        ws="none",
        lifespan="on",
        # Longer than clients keep an idle connection: else each could close it just when the other begins to use it.
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
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
    """The API on the test's own servers, without workers."""
    with serve_api(settings) as served:
        yield served


def part_environment(settings: Settings) -> dict[str, str]:
    """The environment that gives a part these settings."""
    values = settings.model_dump(mode="json", exclude_unset=True)
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith("TASKMILL_")},
        **{f"TASKMILL_{name.upper()}": str(value) for name, value in values.items()},
        "PYTHONUNBUFFERED": "1",
    }


class Parts:
    """Parts of the platform as processes, ended with the test."""

    def __init__(self, settings: Settings, folder: Path, server: PartServer | None) -> None:
        self.settings = settings
        self.folder = folder
        self._server = server
        self.processes: list[subprocess.Popen[bytes] | ForkedPart] = []

    def start(
        self, *arguments: str, environment: Mapping[str, str] | None = None
    ) -> subprocess.Popen[bytes] | ForkedPart:
        """Start `taskmill <arguments>`; its log lies in the test's folder."""
        added = dict(environment or {})
        whole = {**part_environment(self.settings), **added}
        log = self.folder / f"{len(self.processes)}-{arguments[0]}.log"
        # What speaks to the interpreter is heard by one that starts.
        if self._server is None or any(name.startswith("PYTHON") for name in added):
            process = self._start_python(["-m", "cli.main", *arguments], whole, log)
        else:
            process = self._server.start(arguments, whole, log)
        self.processes.append(process)
        return process

    def start_script(self, script: str) -> subprocess.Popen[bytes]:
        """Start Python with a script: a part of which the test has changed something."""
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

    def start_worker(
        self, queues: str = "files,reports,email,maintenance", concurrency: int = 2
    ) -> subprocess.Popen[bytes] | ForkedPart:
        """Start a worker."""
        return self.start("worker", "--queues", queues, "--concurrency", str(concurrency))

    def logs(self) -> str:
        """What every part has said."""
        return "\n".join(path.read_text(errors="replace") for path in sorted(self.folder.glob("*.log")))

    def stop(self) -> None:
        """Stop every part, by force if need be."""
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
    """What parts are forked from, on Linux: macOS has no such sockets, and its libraries do not bear a fork."""
    if sys.platform != "linux":
        yield None
        return
    with PartServer() as server:
        yield server


@pytest.fixture
def parts(settings: Settings, tmp_path: Path, part_server: PartServer | None) -> Iterator[Parts]:
    """A way to start parts as processes on the test's own servers."""
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
    with LocalStack(tmp_path_factory.mktemp("stack")) as running:
        yield running
    # Pytest throws its own folders away; a cluster of root's lies elsewhere.
    PostgresServer(running.data_dir / "postgres").remove()


@pytest.fixture
def stack_client(stack: LocalStack) -> Iterator[httpx2.Client]:
    """The stack's admin."""
    ready = stack.ready
    headers = {"Authorization": f"Bearer {ready['api_key']}"}
    with httpx2.Client(base_url=ready["api_url"], headers=headers, timeout=70) as client:
        yield client


@pytest.fixture
def eventually() -> Callable[..., Any]:
    """Asks again and again until the answer is true, and gives it; fails when it is not in time."""

    def ask(question: Callable[[], Any], seconds: float = PATIENCE_SECONDS) -> Any:
        deadline = time.monotonic() + seconds
        while True:
            answer = question()
            if answer:
                return answer
            assert time.monotonic() < deadline, f"not within {seconds} s"
            time.sleep(0.05)

    return ask
