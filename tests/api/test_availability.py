"""While Postgres or the broker is stopped or hangs, requests are answered in time. Afterwards the API recovers by itself."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Any

import httpx2
import psutil
import psycopg
import pytest

from api.auth.authentication import KEY_CACHE_SECONDS
from cli.local_stack.broker import BrokerServer
from cli.local_stack.postgres import PostgresServer
from shared.database.connections import ROUND_TRIP_GRACE_SECONDS
from shared.database.schema_migrations import migrate
from shared.identifiers import new_id
from shared.settings import Settings
from tests.api.conftest import Submit
from tests.conftest import Api, Eventually

TIMEOUT = 2.0
BUSY_SECONDS = 8.0
"""How much longer a busy machine may need. Without a timeout, a request would not be answered at all while Postgres hangs."""
EMAIL = {"to": ["ada@example.com"], "text": "hello"}


@pytest.fixture(scope="module")
def own_postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    """A Postgres that these tests may stop."""
    with PostgresServer(tmp_path_factory.mktemp("own-postgres"), fast=True) as server:
        yield server


@pytest.fixture(scope="module")
def own_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrokerServer]:
    """A Valkey that these tests may stop."""
    with BrokerServer(tmp_path_factory.mktemp("own-broker")) as server:
        yield server


@pytest.fixture(scope="module")
def module_settings(
    own_postgres: PostgresServer, own_broker: BrokerServer, tmp_path_factory: pytest.TempPathFactory
) -> Settings:
    settings = Settings(
        database_url=own_postgres.url,
        database_timeout_seconds=TIMEOUT,
        broker_url=own_broker.url,
        storage_url=f"file://{tmp_path_factory.mktemp('objects')}",
        rate_limit_client=100_000,
    )
    migrate(settings)
    return settings


@contextmanager
def frozen(server: PostgresServer | BrokerServer) -> Iterator[None]:
    """Stop the processes of a server with SIGSTOP: its connections stay open, and it does not answer."""
    assert server.pid is not None
    process = psutil.Process(server.pid)
    processes = [process, *process.children(recursive=True)]
    try:
        for each in processes:
            # A child process of the server may end in the meantime.
            with suppress(psutil.NoSuchProcess):
                each.send_signal(signal.SIGSTOP)
        yield
    finally:
        for each in processes:
            with suppress(psutil.NoSuchProcess):
                each.send_signal(signal.SIGCONT)


def routes(task_id: str) -> list[tuple[str, str, Any]]:
    email = {"kind": "email.send", "params": EMAIL}
    return [
        ("POST", "/tasks", email),
        ("POST", "/tasks/batch", {"tasks": [email]}),
        ("POST", "/emails", EMAIL),
        ("POST", "/emails", {**EMAIL, "unique_for": 60}),
        ("GET", f"/tasks/{task_id}", None),
        ("GET", f"/tasks/{task_id}?wait=5", None),
        ("GET", "/tasks", None),
        ("GET", f"/tasks?ids={task_id}", None),
        ("POST", f"/tasks/{task_id}/cancel", None),
        ("DELETE", f"/tasks/{task_id}", None),
        ("GET", f"/batches/{task_id}", None),
        ("GET", f"/files/{task_id}", None),
    ]


def ask_all(client: httpx2.Client, task_id: str) -> list[tuple[str, httpx2.Response, float]]:
    """Call every route at the same time, each in its own thread; return the answers with the seconds that they took."""

    def ask(route: tuple[str, str, Any]) -> tuple[str, httpx2.Response, float]:
        method, path, body = route
        begun = time.monotonic()
        headers = {"Idempotency-Key": str(new_id())} if method == "POST" and body is not None else {}
        answer = client.request(method, path, json=body, headers=headers)
        return f"{method} {path}", answer, time.monotonic() - begun

    with ThreadPoolExecutor(16) as threads:
        return list(threads.map(ask, routes(task_id)))


def require_unavailable(answers: list[tuple[str, httpx2.Response, float]], seconds: float) -> None:
    for name, answer, took in answers:
        assert answer.status_code == 503, (name, answer.text)
        assert answer.json()["type"] == "/problems/unavailable", name
        assert int(answer.headers["retry-after"]) >= 1, name
        assert took < seconds, (name, took)


@pytest.fixture
def task_id(client: httpx2.Client, email: Submit) -> str:
    return email()


@pytest.fixture
def recovered(client: httpx2.Client, eventually: Eventually) -> Callable[[], None]:
    """Waits until submissions are accepted again, without a restart of the API."""
    return lambda: eventually(lambda: client.post("/emails", json=EMAIL).status_code == 202)


def count_tasks(settings: Settings) -> int:
    with psycopg.connect(settings.database_url) as connection:
        row = connection.execute("SELECT count(*) FROM tasks").fetchone()
    assert row is not None
    return int(row[0])


def test_while_postgres_is_down_requests_get_503_and_recover_afterwards(
    served: Api,
    client: httpx2.Client,
    module_settings: Settings,
    own_postgres: PostgresServer,
    task_id: str,
    recovered: Callable[[], None],
    eventually: Eventually,
) -> None:
    before = count_tasks(module_settings)
    newcomer = served.client("newcomer")

    own_postgres.stop()
    try:
        known = ask_all(client, task_id)
        time.sleep(KEY_CACHE_SECONDS + 0.1)  # Until the caller is no longer cached, which nothing shows.
        forgotten = ask_all(client, task_id)
        unknown = ask_all(newcomer, task_id)
        life = client.get("/health")
    finally:
        own_postgres.start()

    for answers in (known, forgotten, unknown):
        require_unavailable(answers, TIMEOUT + BUSY_SECONDS)
    assert life.status_code == 200
    assert count_tasks(module_settings) == before
    recovered()
    eventually(lambda: client.get(f"/tasks/{task_id}").json()["status"] == "queued")


def test_while_postgres_hangs_requests_get_503_in_time_and_recover_afterwards(
    served: Api,
    client: httpx2.Client,
    own_postgres: PostgresServer,
    task_id: str,
    recovered: Callable[[], None],
    eventually: Eventually,
) -> None:
    newcomer = served.client("newcomer")
    ask_all(client, str(new_id()))
    client.get("/kinds")

    with frozen(own_postgres):
        known = ask_all(client, task_id)
        time.sleep(KEY_CACHE_SECONDS + 0.1)  # Until the caller is no longer cached, which nothing shows.
        unknown = ask_all(newcomer, task_id)

    for answers in (known, unknown):
        # One round trip and one attempt to connect reach their timeouts.
        require_unavailable(answers, TIMEOUT * 2 + ROUND_TRIP_GRACE_SECONDS + BUSY_SECONDS)
    recovered()
    eventually(lambda: client.get(f"/tasks/{task_id}").status_code == 200)


def test_connections_that_postgres_ends_are_replaced(
    client: httpx2.Client,
    module_settings: Settings,
    task_id: str,
    recovered: Callable[[], None],
    eventually: Eventually,
) -> None:
    ask_all(client, str(new_id()))
    with psycopg.connect(module_settings.database_url, autocommit=True) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )

    first = ask_all(client, task_id)

    assert {answer.status_code for _, answer, _ in first} <= {200, 202, 204, 404, 409, 503}
    recovered()
    eventually(lambda: client.get(f"/tasks/{task_id}").status_code == 200)
    eventually(lambda: client.get("/tasks").status_code == 200)


@pytest.mark.parametrize("way", ["stopped", "hanging"])
def test_submissions_and_cancels_do_not_need_the_broker(
    client: httpx2.Client, own_broker: BrokerServer, email: Submit, way: str
) -> None:
    email()

    def submit_and_cancel() -> tuple[httpx2.Response, float]:
        begun = time.monotonic()
        answer = client.post(f"/tasks/{email()}/cancel")
        return answer, time.monotonic() - begun

    if way == "stopped":
        own_broker.stop()
        try:
            answer, seconds = submit_and_cancel()
        finally:
            own_broker.start()
    else:
        with frozen(own_broker):
            answer, seconds = submit_and_cancel()

    assert (answer.status_code, answer.json()["status"]) == (202, "cancelled")
    assert seconds < BUSY_SECONDS
