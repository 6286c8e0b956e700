"""A Postgres that breaks connections, dies during a finish, or is away for a while."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from statistics import median
from typing import Any

import httpx2
import psycopg
import pytest

from cli.local_stack.postgres import PostgresServer
from shared.contracts.catalog import list_kinds
from shared.database.connections import connect_hot
from shared.database.schema_migrations import migrate
from shared.identifiers import new_id
from shared.queries import hot_tasks
from shared.settings import Settings
from shared.tasks.options import TaskOptions
from shared.tasks.submission import make_task, submission_document
from tests.claims import claim_tasks
from tests.conftest import Api
from tests.faults.conftest import ChooseDuration, Health, Room

LEASE_SECONDS = 1.0
"""An end that cannot be written for so long is given up, and what a crash brought back runs for no one."""


@pytest.fixture(scope="module")
def own_postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    with PostgresServer(tmp_path_factory.mktemp("own-postgres"), fast=True) as server:
        migrate(Settings(database_url=server.url))
        yield server


@pytest.fixture
def settings(settings: Settings, own_postgres: PostgresServer) -> Settings:
    own_postgres.start()
    return settings.model_copy(update={"database_url": own_postgres.url})


def crash(server: PostgresServer) -> None:
    """Kill every process of the server at once, as an immediate shutdown or a crash does."""
    server.kill()


def test_repeatedly_broken_database_connections_lose_no_task(room: Room, client: httpx2.Client) -> None:
    room.relay()
    room.worker()
    room.wait_for(room.submit(client), "succeeded")
    refused = 0
    for _ in range(10):
        for _ in range(5):
            answer = client.post("/tasks", json={"kind": "platform.ping", "params": {"sleep_ms": 10}})
            if answer.status_code == 202:
                room.note(answer.json()["id"])
            else:
                assert (answer.status_code, "Retry-After" in answer.headers) == (503, True)
                refused += 1
        room.ask(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE application_name LIKE 'taskmill-%%' AND pid <> pg_backend_pid()"
        )
        time.sleep(0.1)

    assert set(room.settle().values()) == {"succeeded"}
    assert refused <= 25


def test_without_its_database_the_api_answers_503_and_work_goes_on_afterwards(
    room: Room,
    client: httpx2.Client,
    api: Api,
    own_postgres: PostgresServer,
    health: type[Health],
    lasting: ChooseDuration,
) -> None:
    room.relay()
    room.worker()
    room.wait_for(room.submit(client), "succeeded")
    took: list[float] = []
    with health(api.url) as asked:
        room.submit_many(client, 40, sleep_ms=50)
        crash(own_postgres)
        end = time.monotonic() + lasting(4, 60)
        while time.monotonic() < end:
            began = time.monotonic()
            answer = client.post("/tasks", json={"kind": "platform.ping", "params": {}})
            took.append(time.monotonic() - began)
            assert (answer.status_code, "Retry-After" in answer.headers) == (503, True)
            time.sleep(0.1)
        own_postgres.start()
        # Reads and submissions have connections of their own, and each finds out by itself that the database is back.
        room.eventually(lambda: client.get("/tasks").status_code == 200)
        room.eventually(lambda: client.post("/tasks", json={"kind": "platform.ping", "params": {}}).status_code == 202)

        assert set(room.settle().values()) == {"succeeded"}
    # A single request may be slow on a busy machine. Requests that wait for the database would all be slow.
    assert median(took) < 2
    assert asked.failures == []
    assert median(asked.seconds) < 2


def hold_a_running_ping(room: Room, client: httpx2.Client, holding: psycopg.Connection[Any]) -> str:
    """Submit pings until the row of one is locked while it runs: on a busy machine, one or the other ends before."""
    for _ in range(60):
        task_id: str = room.submit(client, params={"sleep_ms": 600})
        room.wait_for(task_id, "running", "succeeded")
        locked = "SELECT FROM tasks WHERE id = %s AND status = 'running' FOR UPDATE"
        if holding.execute(locked, (task_id,)).rowcount:
            return task_id
        holding.rollback()
    pytest.fail("no ping was held while it ran")


def test_a_database_crash_while_a_task_finishes_leaves_one_end(
    room: Room, client: httpx2.Client, own_postgres: PostgresServer
) -> None:
    room.relay()
    room.worker()
    holding = psycopg.connect(own_postgres.url)
    task_id = hold_a_running_ping(room, client, holding)
    finishing = (
        "SELECT 1 FROM pg_stat_activity WHERE application_name = 'taskmill-worker-finish' AND wait_event_type = 'Lock'"
    )
    room.eventually(lambda: room.ask(finishing))
    crash(own_postgres)
    holding.close()
    own_postgres.start()

    assert room.settle()[task_id] == "succeeded"
    ends = "SELECT count(*) FROM task_events WHERE task_id = %s AND data->>'status' = 'succeeded'"
    assert room.ask(ends, (task_id,)) == [(1,)]


def test_a_claim_that_a_database_crash_lost_cannot_write(
    settings: Settings, own_postgres: PostgresServer, room: Room
) -> None:
    """Claims are committed without waiting for the disk: a crash may undo one whose work has begun."""
    undone = 0
    for _ in range(3):
        owner, kind = new_id(), list_kinds()["platform.ping"]
        task = make_task("platform.ping", kind, b"{}", "files", TaskOptions(), owner, owner)
        with connect_hot(settings, "test") as durable:
            durable.execute(hot_tasks.SUBMIT, {"document": submission_document([task])})
        claiming = connect_hot(settings, "test", durable=False)
        assert len(claim_tasks(claiming, [task.id], claims=[12345])) == 1
        crash(own_postgres)
        claiming.close()
        own_postgres.start()

        ending = {"id": str(task.id), "claim": 12345, "status": "succeeded", "result": {}}
        with connect_hot(settings, "test") as hot:
            ((status,),) = hot.execute("SELECT status FROM tasks WHERE id = %s", (task.id,)).fetchall()
            written = hot.execute(hot_tasks.FINISH, {"document": json.dumps([ending])}).fetchall()

        assert written == ([(task.id, "succeeded")] if status == "running" else [])
        assert status in {"queued", "running"}
        undone += status == "queued"
        room.note(str(task.id))
    room.relay()
    room.worker()

    assert undone > 0
    assert set(room.settle().values()) == {"succeeded"}
