"""Every accepted task is done once, whichever part dies while the task waits or runs."""

from __future__ import annotations

import signal
import threading

import httpx2
import psycopg
import pytest
import redis

from shared.settings import Settings
from tests.conftest import PATIENCE_SECONDS, Api, Eventually, Parts

BATCH = [{"kind": "platform.ping", "params": {"sleep_ms": 20}}] * 100


@pytest.fixture
def client(api: Api) -> httpx2.Client:
    return api.client("operator", "operator")


@pytest.fixture
def patient_engine_room(parts: Parts) -> Parts:
    """Start a relay and a worker with a lease so long that a busy machine loses none: each task has one attempt."""
    parts.settings = parts.settings.model_copy(update={"lease_seconds": 30})
    parts.start("relay")
    parts.start_worker()
    return parts


def _submit(client: httpx2.Client) -> list[str]:
    answer = client.post("/tasks/batch", json={"tasks": BATCH})
    assert answer.status_code == 202
    return [task["id"] for task in answer.json()["tasks"]]


def _assert_each_ended_once(settings: Settings, ids: list[str], *, attempts: int | None = 1) -> None:
    with psycopg.connect(settings.database_url) as connection:
        rows = connection.execute(
            """SELECT task.status, task.version, task.claim, task.attempt,
                   count(*) FILTER (WHERE event.data->>'status' = 'succeeded') AS ends, count(*) AS events
               FROM tasks task JOIN task_events event ON event.task_id = task.id
               WHERE task.id = ANY(%s) GROUP BY task.id""",
            (ids,),
        ).fetchall()
    assert len(rows) == len(ids)
    for status, version, claim, attempt, ends, events in rows:
        assert (status, claim, ends) == ("succeeded", None, 1)
        assert events == version
        assert attempts is None or attempt == attempts


def _are_some_done(settings: Settings, ids: list[str]) -> bool:
    with psycopg.connect(settings.database_url) as connection:
        return bool(
            connection.execute(
                "SELECT 1 FROM tasks WHERE id = ANY(%s) AND finished_at IS NOT NULL LIMIT 1", (ids,)
            ).fetchone()
        )


def _all_done(settings: Settings, ids: list[str]) -> bool:
    with psycopg.connect(settings.database_url) as connection:
        row = connection.execute(
            "SELECT count(*) FROM tasks WHERE id = ANY(%s) AND finished_at IS NULL", (ids,)
        ).fetchone()
    return row == (0,)


def test_no_task_is_lost_while_the_broker_is_wiped_repeatedly(
    client: httpx2.Client, patient_engine_room: Parts, settings: Settings, eventually: Eventually
) -> None:
    ids: list[str] = []
    stop, wiped = threading.Event(), threading.Semaphore(0)

    def wipe() -> None:
        with redis.Redis.from_url(settings.broker_url) as broker:
            while not stop.wait(0.3):
                broker.flushall()
                wiped.release()

    wiping = threading.Thread(target=wipe)
    wiping.start()
    try:
        for _ in range(3):
            ids += _submit(client)
            for _ in range(2):
                assert wiped.acquire(timeout=PATIENCE_SECONDS)
    finally:
        stop.set()
        wiping.join(PATIENCE_SECONDS)

    eventually(lambda: _all_done(settings, ids))
    _assert_each_ended_once(settings, ids)


def test_no_task_is_lost_when_workers_are_killed(
    client: httpx2.Client, engine_room: Parts, settings: Settings, eventually: Eventually
) -> None:
    worker = engine_room.processes[-1]
    ids = _submit(client)
    eventually(lambda: client.get(f"/tasks/{ids[3]}").json()["done"])

    for _ in range(2):
        worker.send_signal(signal.SIGKILL)
        worker.wait(PATIENCE_SECONDS)
        ids += _submit(client)
        worker = engine_room.start_worker()
        latest = ids[-100:]
        eventually(lambda: _are_some_done(settings, latest))  # noqa: B023

    eventually(lambda: _all_done(settings, ids))
    _assert_each_ended_once(settings, ids, attempts=None)


def test_no_task_is_lost_when_relays_are_killed(
    client: httpx2.Client, patient_engine_room: Parts, settings: Settings, eventually: Eventually
) -> None:
    relay = patient_engine_room.processes[0]
    ids = _submit(client)

    for _ in range(2):
        relay.send_signal(signal.SIGKILL)
        relay.wait(PATIENCE_SECONDS)
        ids += _submit(client)
        relay = patient_engine_room.start("relay")
        latest = ids[-100:]
        eventually(lambda: _are_some_done(settings, latest))  # noqa: B023

    eventually(lambda: _all_done(settings, ids))
    _assert_each_ended_once(settings, ids)


def test_a_rolling_restart_under_load_counts_no_attempts(
    client: httpx2.Client, patient_engine_room: Parts, settings: Settings, eventually: Eventually
) -> None:
    worker = patient_engine_room.processes[-1]
    ids = _submit(client)
    eventually(lambda: client.get(f"/tasks/{ids[3]}").json()["done"])

    for _ in range(2):
        following = patient_engine_room.start_worker()
        worker.send_signal(signal.SIGTERM)
        ids += _submit(client)
        assert worker.wait(timeout=PATIENCE_SECONDS) == 0
        worker = following
        latest = ids[-100:]
        eventually(lambda: _are_some_done(settings, latest))  # noqa: B023

    eventually(lambda: _all_done(settings, ids))
    _assert_each_ended_once(settings, ids)
