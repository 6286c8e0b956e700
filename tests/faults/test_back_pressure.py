"""A slow database, or one without free connections: requests get 503 soon, and succeed again afterwards."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from uuid import uuid4

import httpx2
import psycopg
import pytest
from psycopg import sql

from tests.faults.conftest import Health, Room

TIMEOUT_SECONDS = 4
SOON_SECONDS = 2 * TIMEOUT_SECONDS + 15
"""The time limits of one wait for a connection and one statement, and fifteen seconds for a busy machine."""
SMALL = {"TASKMILL_DATABASE_TIMEOUT_SECONDS": str(TIMEOUT_SECONDS), "TASKMILL_DATABASE_POOL_SIZE": "2"}
CROWD = 2000
"""More than six batches of gathered requests: one after the other, they would take longer than `SOON_SECONDS`."""
PING = {"kind": "platform.ping", "params": {}}
EMAIL = {"to": ["a@example.com"], "subject": "S", "text": "T"}

Request = tuple[str, str, object]
"""The method, the path and the content of a request."""
Line = tuple[asyncio.StreamReader, asyncio.StreamWriter]


def hot(number: int, task_id: str) -> Request:
    return ("POST", "/tasks", PING) if number % 8 else ("GET", f"/tasks/{task_id}", None)


def ordinary(number: int, task_id: str) -> Request:
    routes: list[Request] = [
        ("GET", "/tasks", None),
        ("POST", "/tasks/batch", {"tasks": [PING] * 3}),
        ("POST", f"/tasks/{task_id}/cancel", None),
        ("POST", "/emails", EMAIL),
        ("GET", f"/tasks?ids={task_id}", None),
    ]
    return routes[number % len(routes)]


@dataclass
class Answer:
    """One response, and the seconds from its request to its end."""

    status: int
    headers: dict[str, str]
    body: bytes
    seconds: float


async def ask_all(client: httpx2.Client, requests: list[Request]) -> list[Answer]:
    """Open a connection for each request, then send them all at once."""
    url = client.base_url
    lines = [await asyncio.open_connection(url.host, url.port) for _ in requests]

    async def ask(line: Line, method: str, path: str, content: object) -> Answer:
        reader, writer = line
        body = b"" if content is None else json.dumps(content).encode()
        head = f"{method} {path} HTTP/1.1\r\nHost: x\r\nAuthorization: {client.headers['Authorization']}\r\n"
        head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        began = time.monotonic()
        writer.write(head.encode() + body)
        said = await reader.read()
        seconds = time.monotonic() - began
        writer.close()
        start, _, rest = said.partition(b"\r\n\r\n")
        status, *fields = start.decode().split("\r\n")
        headers = {name.lower(): value for name, _, value in (field.partition(": ") for field in fields)}
        return Answer(int(status.split()[1]), headers, rest, seconds)

    async with asyncio.timeout(120):
        return list(await asyncio.gather(*(ask(line, *request) for line, request in zip(lines, requests, strict=True))))


def assert_refused_soon(answers: list[Answer]) -> None:
    assert Counter(answer.status for answer in answers) == {503: len(answers)}
    assert all(int(answer.headers["retry-after"]) >= 1 for answer in answers)
    assert {json.loads(answer.body)["type"] for answer in answers} == {"/problems/unavailable"}
    assert max(answer.seconds for answer in answers) < SOON_SECONDS


@contextmanager
def locked(room: Room, table: str) -> Iterator[None]:
    """Lock a table, so that every statement on it waits."""
    with psycopg.connect(room.settings.database_url) as connection:
        connection.execute(sql.SQL("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE").format(sql.Identifier(table)))
        yield
        connection.rollback()


@contextmanager
def without_free_connections(room: Room) -> Iterator[None]:
    """Make the server refuse new connections and close the present ones."""
    name = psycopg.conninfo.conninfo_to_dict(room.settings.database_url)["dbname"]
    admin = psycopg.conninfo.make_conninfo(room.settings.database_url, dbname="postgres")
    with psycopg.connect(admin, autocommit=True) as connection:
        limit = sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS {}")
        connection.execute(limit.format(sql.Identifier(str(name)), sql.SQL("false")))
        try:
            connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", (name,))
            yield
        finally:
            connection.execute(limit.format(sql.Identifier(str(name)), sql.SQL("true")))


@pytest.fixture
def small_api(room: Room) -> Iterator[tuple[httpx2.Client, str]]:
    """An API with two database connections and short timeouts, and the id of a scheduled task."""
    _, client = room.api(**SMALL)
    yield client, room.submit(client, delay=86_400)


def note_recovery(room: Room, client: httpx2.Client) -> None:
    """Assert that the server soon accepts submissions again without a restart, on hot paths and ordinary ones."""
    room.eventually(lambda: client.post("/tasks", json=PING).status_code == 202, SOON_SECONDS)
    room.eventually(lambda: client.get("/tasks").status_code == 200, SOON_SECONDS)
    room.eventually(lambda: client.post("/emails", json=EMAIL).status_code == 202, SOON_SECONDS)


def test_many_requests_soon_get_503_while_the_database_does_not_answer(
    room: Room, small_api: tuple[httpx2.Client, str], health: type[Health]
) -> None:
    client, task_id = small_api
    requests = [(hot if n % 2 else ordinary)(n // 2, task_id) for n in range(CROWD)]
    stored = room.ask("SELECT count(*) FROM tasks")
    with health(str(client.base_url)) as asked, locked(room, "tasks"):
        first = asyncio.run(ask_all(client, requests))
        # The refused requests must not delay later ones.
        second = asyncio.run(ask_all(client, requests[:40]))

    assert_refused_soon(first)
    assert_refused_soon(second)
    assert asked.failures == []
    assert room.ask("SELECT count(*) FROM tasks") == stored
    note_recovery(room, client)


def test_requests_soon_get_503_while_the_pool_is_exhausted(room: Room, small_api: tuple[httpx2.Client, str]) -> None:
    client, _ = small_api
    file_id = client.post("/files", files={"file": ("a.txt", b"hello")}).json()["params"]["file_id"]
    with locked(room, "tasks"):
        # The lists use both connections, and the requests for a file wait for one.
        requests = [("GET", "/tasks", None)] * 60 + [("GET", f"/files/{file_id}", None)] * 60
        answers = asyncio.run(ask_all(client, requests))

    assert {answer.status for answer in answers[:60]} == {503}
    assert {answer.status for answer in answers[60:]} <= {200, 503}
    assert max(answer.seconds for answer in answers) < SOON_SECONDS
    note_recovery(room, client)


def test_requests_soon_get_503_while_the_server_refuses_connections(
    room: Room, small_api: tuple[httpx2.Client, str]
) -> None:
    client, task_id = small_api
    with without_free_connections(room):
        requests = [(hot if n % 2 else ordinary)(n // 2, task_id) for n in range(100)]
        answers = asyncio.run(ask_all(client, requests))

    assert_refused_soon(answers)
    note_recovery(room, client)


def test_a_slow_database_delays_requests_and_refuses_none(
    room: Room,
) -> None:
    # Far longer than a batch takes, also on a busy machine.
    _, client = room.api(**{**SMALL, "TASKMILL_DATABASE_TIMEOUT_SECONDS": "30"})
    room.ask(
        "CREATE FUNCTION dawdle() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(1); RETURN NULL; END'"
    )
    room.ask("CREATE TRIGGER dawdle AFTER INSERT ON tasks FOR EACH STATEMENT EXECUTE FUNCTION dawdle()")

    answers = asyncio.run(ask_all(client, [("POST", "/tasks", PING)] * 300))

    # Each batch takes long, and contains all gathered requests.
    assert Counter(answer.status for answer in answers) == {202: 300}
    room.ask("DROP TRIGGER dawdle ON tasks")
    note_recovery(room, client)


def test_repeats_with_one_key_submit_one_task_despite_a_slow_database(
    room: Room, small_api: tuple[httpx2.Client, str]
) -> None:
    client, _ = small_api
    key = {"Idempotency-Key": str(uuid4())}
    before = room.ask("SELECT count(*) FROM tasks")[0][0]
    with locked(room, "tasks"):
        assert client.post("/tasks", json=PING, headers=key).status_code == 503
        assert client.post("/tasks", json=PING, headers=key).status_code == 503

    room.eventually(lambda: client.post("/tasks", json=PING, headers=key).status_code == 202)
    assert client.post("/tasks", json=PING, headers=key).headers["Idempotency-Replayed"] == "true"
    assert room.ask("SELECT count(*) FROM tasks")[0][0] == before + 1
