"""What tests of the contract share: an API that a whole module reads from, and a worker that does as it is told."""

from __future__ import annotations

import json
import secrets
import socket
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import httpx2
import psycopg
import pytest
from psycopg import sql

from cli.local_stack.broker import BrokerServer
from cli.local_stack.postgres import PostgresServer
from shared.identifiers import new_id
from shared.queries import hot_tasks
from shared.queries.relay import PROMOTE
from shared.settings import Settings
from tests.claims import claim_tasks
from tests.conftest import TEMPLATE, Api, serve_api


@pytest.fixture(scope="module")
def module_settings(
    postgres_server: PostgresServer, broker_server: BrokerServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Settings]:
    """Settings on a database that one module of tests has for itself."""
    name = f"test_{new_id().hex}"
    folder = tmp_path_factory.mktemp("api")
    with psycopg.connect(postgres_server.url, autocommit=True) as connection:
        connection.execute(
            sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(sql.Identifier(name), sql.Identifier(TEMPLATE))
        )
        yield Settings(
            database_url=postgres_server.url.rsplit("/", 1)[0] + "/" + name,
            broker_url=broker_server.url,
            storage_url=f"file://{folder}/objects",
            rate_limit_client=100_000,
            rate_limit_unauthenticated=100_000,
        )
        connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@pytest.fixture(scope="module")
def served(module_settings: Settings) -> Iterator[Api]:
    """One served API for a module whose tests do not disturb each other."""
    with serve_api(module_settings) as api:
        yield api


@pytest.fixture(scope="module")
def client(served: Api) -> httpx2.Client:
    """A client without privileges."""
    return served.client("someone")


@pytest.fixture(scope="module")
def stranger(served: Api) -> httpx2.Client:
    """A client of another organization."""
    return served.client("stranger")


@pytest.fixture(scope="module")
def operator(served: Api) -> httpx2.Client:
    """An operator."""
    return served.client("operator", "operator")


@pytest.fixture(scope="module")
def admin(served: Api) -> httpx2.Client:
    """An admin."""
    return served.client("admin", "admin")


@pytest.fixture(scope="module")
def nobody(served: Api) -> httpx2.Client:
    """A client without credentials."""
    return served.client_with(None)


class HandWorker:
    """Takes tasks and ends them by the engine's own statements, when a test says so."""

    def __init__(self, settings: Settings) -> None:
        self.connection = psycopg.connect(settings.database_url, autocommit=True)
        self._claims: dict[str, int] = {}

    def claim(self, task_id: str) -> bool:
        """Begin an attempt; false when there is nothing to claim."""
        claim = secrets.randbits(62)
        if not claim_tasks(self.connection, [task_id], claims=[claim]):
            return False
        self._claims[task_id] = claim
        return True

    def renew(self, task_id: str) -> bool:
        """Send a heartbeat; tell whether a cancel is requested."""
        parameters = {"ids": [task_id], "claims": [self._claims[task_id]], "lease": 60}
        row = self.connection.execute(hot_tasks.RENEW, parameters).fetchone()
        assert row is not None
        return bool(row[1])

    def report(self, task_id: str, percent: int, message: str | None = None) -> None:
        """Write progress."""
        parameters = {"id": task_id, "claim": self._claims[task_id], "percent": percent, "message": message}
        assert self.connection.execute(hot_tasks.REPORT_PROGRESS, parameters).fetchone() is not None

    def end(self, task_id: str, status: str, result: Any = None, error: Any = None, delay: float | None = None) -> str:
        """End the attempt; give the status that the task has then."""
        row = {
            "id": task_id,
            "claim": self._claims[task_id],
            "status": status,
            "result": result,
            "error": error,
            "delay": delay,
        }
        ended = self.connection.execute(hot_tasks.FINISH, {"document": json.dumps([row])}).fetchone()
        assert ended is not None
        return str(ended[1])

    def promote(self) -> None:
        """Queue the tasks whose time has come, as the relay does."""
        self.connection.execute(PROMOTE, {"limit": 1000})

    def succeed(self, task_id: str) -> None:
        """Do a task."""
        assert self.claim(task_id)
        assert self.end(task_id, "succeeded", result={"echo": None}) == "succeeded"

    def fail(self, task_id: str) -> None:
        """Let a task fail for good."""
        assert self.claim(task_id)
        error = {
            "type": "/problems/worker-lost",
            "title": "Worker lost",
            "detail": "It is lost.",
            "retryable": True,
            "attempt": 1,
            "data": {},
        }
        assert self.end(task_id, "failed", error=error) == "failed"

    def count(self, statement: str, *parameters: Any) -> int:
        """Give the number that a statement asks for."""
        row = self.connection.execute(statement, parameters).fetchone()  # type: ignore[call-overload]
        return int(row[0])


@pytest.fixture(scope="module")
def hand(module_settings: Settings) -> Iterator[HandWorker]:
    """A worker that does as it is told."""
    worker = HandWorker(module_settings)
    yield worker
    worker.connection.close()


@pytest.fixture(scope="module")
def ping(operator: httpx2.Client) -> Callable[..., str]:
    """Submits a ping as the operator, and gives its id."""

    def submit(client: httpx2.Client = operator, **options: Any) -> str:
        answer = client.post("/tasks", json={"kind": "platform.ping", **options})
        assert answer.status_code == 202, answer.text
        return str(answer.json()["id"])

    return submit


@pytest.fixture(scope="module")
def email(client: httpx2.Client) -> Callable[..., str]:
    """Submits an email, which a client without privileges may, and gives the task's id."""

    def submit(by: httpx2.Client = client, **options: Any) -> str:
        answer = by.post("/emails", json={"to": ["ada@example.com"], "text": "hello", **options})
        assert answer.status_code == 202, answer.text
        return str(answer.json()["id"])

    return submit


@pytest.fixture(scope="module")
def speak(served: Api) -> Callable[..., bytes]:
    """Sends bytes as they are and gives what comes back until the other side closes, as it must in each use."""

    def send(request: bytes, *, patience_seconds: float = 30) -> bytes:
        host, port = served.url.removeprefix("http://").split(":")
        answer = b""
        with socket.create_connection((host, int(port)), timeout=10) as connection:
            connection.sendall(request)
            connection.settimeout(patience_seconds)
            try:
                while part := connection.recv(65536):
                    answer += part
            except (TimeoutError, ConnectionResetError):
                pass
        return answer

    return send


@pytest.fixture
def errors_of() -> Callable[[httpx2.Response], dict[str, str]]:
    """Gives the pointers of a 422 with their codes."""

    def read(answer: httpx2.Response) -> dict[str, str]:
        assert answer.status_code == 422, answer.text
        assert answer.headers["content-type"] == "application/problem+json"
        return {error["pointer"]: error["code"] for error in answer.json().get("errors", [])}

    return read


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of real inputs."""
    return Path(__file__).parents[1] / "data"


@pytest.fixture(scope="session")
def serve() -> Callable[[Settings], AbstractContextManager[Api]]:
    """Serves an API with settings of the test's own, within a `with` block."""
    return serve_api


@pytest.fixture(scope="session")
def hand_on() -> Callable[[Settings], AbstractContextManager[HandWorker]]:
    """Gives a worker that does as it is told, on a database of the test's own, within a `with` block."""

    @contextmanager
    def connect(settings: Settings) -> Iterator[HandWorker]:
        worker = HandWorker(settings)
        try:
            yield worker
        finally:
            worker.connection.close()

    return connect
