"""Fixtures of the API's tests: one served API for each module, its clients, and a worker that a test controls."""

from __future__ import annotations

import gc
import json
import secrets
import socket
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Protocol
from uuid import UUID

import httpx2
import psycopg
import pytest
import redis

from api.following.waiters import Waiter
from cli.local_stack.broker import BrokerServer
from cli.local_stack.postgres import PostgresServer
from shared.identifiers import new_id
from shared.queries import hot_tasks
from shared.queries.relay import PROMOTE
from shared.settings import Settings
from shared.tasks.wakeup_channel import WAKEUP_CHANNEL, encode_task_ids
from tests.claims import claim_tasks
from tests.conftest import Api, ServeApi, new_database, serve_api

ErrorsOf = Callable[[httpx2.Response], dict[str, str]]
"""The fixture `errors_of`."""


class Submit(Protocol):
    """The fixtures `ping` and `email`."""

    def __call__(self, by: httpx2.Client = ..., **options: object) -> str:
        """Submit a task and return its id."""


class SendRaw(Protocol):
    """The fixture `send_raw`."""

    def __call__(self, request: bytes, *, patience_seconds: float = 30) -> bytes:
        """Send bytes and return what comes back."""


@pytest.fixture(scope="module")
def module_settings(
    postgres_server: PostgresServer, broker_server: BrokerServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Settings]:
    """Settings with a database that one module of tests has to itself."""
    folder = tmp_path_factory.mktemp("api")
    with new_database(postgres_server) as url:
        yield Settings(
            database_url=url,
            broker_url=broker_server.url,
            storage_url=f"file://{folder}/objects",
            rate_limit_client=100_000,
            rate_limit_sign_in=100_000,
            rate_limit_sign_in_account=100_000,
            rate_limit_unauthenticated=100_000,
        )


@pytest.fixture(scope="module")
def served(module_settings: Settings) -> Iterator[Api]:
    """One served API for all tests of a module."""
    with serve_api(module_settings) as api:
        yield api


@pytest.fixture(scope="module")
def client(served: Api) -> httpx2.Client:
    """A client with the role `client`."""
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


class ManualWorker:
    """A worker that a test controls: it claims and finishes tasks with the statements of the engine."""

    def __init__(self, settings: Settings) -> None:
        self.connection = psycopg.connect(settings.database_url, autocommit=True)
        self._claims: dict[str, int] = {}

    def claim(self, task_id: str) -> bool:
        """Begin an attempt; return whether the task could be claimed."""
        claim = secrets.randbits(62)
        if not claim_tasks(self.connection, [task_id], claims=[claim]):
            return False
        self._claims[task_id] = claim
        return True

    def renew(self, task_id: str) -> bool:
        """Renew the lease; return whether a cancel is requested."""
        parameters = {"ids": [task_id], "claims": [self._claims[task_id]], "lease": 60}
        row = self.connection.execute(hot_tasks.RENEW, parameters).fetchone()
        assert row is not None
        return bool(row[1])

    def report(self, task_id: str, percent: int, message: str | None = None) -> None:
        """Write progress."""
        parameters = {"id": task_id, "claim": self._claims[task_id], "percent": percent, "message": message}
        assert self.connection.execute(hot_tasks.REPORT_PROGRESS, parameters).fetchone() is not None

    def end(
        self, task_id: str, status: str, result: object = None, error: object = None, delay: float | None = None
    ) -> str:
        """Finish the attempt; return the status of the task."""
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
        """Claim a task and finish it as succeeded."""
        assert self.claim(task_id)
        assert self.end(task_id, "succeeded", result={"echo": None}) == "succeeded"

    def finish_with_artifacts(self, task_id: str, names: list[str]) -> None:
        """Claim a task and finish it as succeeded, with artifacts whose objects do not exist."""
        assert self.claim(task_id)
        artifacts = [
            {"file_id": str(new_id()), "name": name, "media_type": "text/plain", "size": 1, "sha256": "00" * 32}
            | {"storage_key": secrets.token_hex(16), "position": position}
            for position, name in enumerate(names)
        ]
        row = {
            "id": task_id,
            "claim": self._claims[task_id],
            "status": "succeeded",
            "result": {},
            "artifacts": artifacts,
        }
        assert self.connection.execute(hot_tasks.FINISH_WITH_ARTIFACTS, {"document": json.dumps([row])}).fetchone()

    def fail(self, task_id: str) -> None:
        """Claim a task and finish it as failed."""
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

    def count(self, statement: str, *parameters: object) -> int:
        """Return the number that a statement selects."""
        row = self.connection.execute(statement, parameters).fetchone()  # type: ignore[call-overload]
        return int(row[0])


OpenManualWorker = Callable[[Settings], AbstractContextManager[ManualWorker]]
"""The fixture `open_manual_worker`."""


@pytest.fixture(scope="module")
def manual_worker(module_settings: Settings) -> Iterator[ManualWorker]:
    """A worker on the module's database."""
    worker = ManualWorker(module_settings)
    yield worker
    worker.connection.close()


@pytest.fixture(scope="module")
def ping(operator: httpx2.Client) -> Submit:
    """Submits `platform.ping` tasks, as the operator unless a client is given."""

    def submit(by: httpx2.Client = operator, **options: object) -> str:
        answer = by.post("/tasks", json={"kind": "platform.ping", **options})
        assert answer.status_code == 202, answer.text
        return str(answer.json()["id"])

    return submit


@pytest.fixture(scope="module")
def email(client: httpx2.Client) -> Submit:
    """Submits `email.send` tasks, as the client with the role `client` unless another is given."""

    def submit(by: httpx2.Client = client, **options: object) -> str:
        answer = by.post("/emails", json={"to": ["ada@example.com"], "text": "hello", **options})
        assert answer.status_code == 202, answer.text
        return str(answer.json()["id"])

    return submit


@pytest.fixture(scope="module")
def send_raw(served: Api) -> SendRaw:
    """Sends raw bytes to the API and returns the bytes that it answers until it closes the connection."""

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
def errors_of() -> ErrorsOf:
    """Returns the code of each error of a 422 by its pointer."""

    def read(answer: httpx2.Response) -> dict[str, str]:
        assert answer.status_code == 422, answer.text
        assert answer.headers["content-type"] == "application/problem+json"
        return {error["pointer"]: error["code"] for error in answer.json().get("errors", [])}

    return read


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of real files."""
    return Path(__file__).parents[1] / "data"


@pytest.fixture(scope="session")
def serve() -> ServeApi:
    """Serves an API with the settings of a test, within a `with` block."""
    return serve_api


@pytest.fixture(scope="session")
def open_manual_worker() -> OpenManualWorker:
    """Opens a worker on the database of a test, within a `with` block."""

    @contextmanager
    def connect(settings: Settings) -> Iterator[ManualWorker]:
        worker = ManualWorker(settings)
        try:
            yield worker
        finally:
            worker.connection.close()

    return connect


PublishWakeup = Callable[[str], None]
"""The fixture `publish_wakeup`."""


@pytest.fixture
def publish_wakeup(broker_server: BrokerServer) -> PublishWakeup:
    """Publishes a wake-up for the task with the given id, as workers do."""

    def publish(task_id: str) -> None:
        with redis.Redis.from_url(broker_server.url) as broker:
            broker.publish(WAKEUP_CHANNEL, encode_task_ids([UUID(task_id)]))

    return publish


def count_waiters() -> int:
    """Return how many requests wait in the API, which is served by this process."""
    gc.collect()
    return sum(isinstance(thing, Waiter) for thing in gc.get_objects())
