"""What is accepted is done, once, whatever dies while it waits or runs."""

from __future__ import annotations

import signal
import threading
import time
from typing import Any

import psycopg
import pytest
import redis

from shared.settings import Settings
from tests.conftest import PATIENCE_SECONDS

BATCH = [{"kind": "platform.ping", "params": {"sleep_ms": 20}}] * 100


@pytest.fixture
def client(api: Any) -> Any:
    return api.client("operator", "operator")


@pytest.fixture
def patient_engine_room(parts: Any) -> Any:
    """An engine room whose lease no busy machine loses, where each task is to have one attempt."""
    parts.settings = parts.settings.model_copy(update={"lease_seconds": 30})
    parts.start("relay")
    parts.start_worker()
    return parts


def _submit(client: Any) -> list[str]:
    answer = client.post("/tasks/batch", json={"tasks": BATCH})
    assert answer.status_code == 202
    return [task["id"] for task in answer.json()["tasks"]]


def _assert_each_ended_once(settings: Settings, ids: list[str], *, attempts: int | None = 1) -> None:
    with psycopg.connect(settings.database_url) as connection:
        rows = connection.execute(
            """SELECT t.status, t.version, t.claim, t.attempt, count(*) FILTER (WHERE e.data->>'status' = 'succeeded'),
                   count(*)
               FROM tasks t JOIN task_events e ON e.task_id = t.id WHERE t.id = ANY(%s) GROUP BY t.id""",
            (ids,),
        ).fetchall()
    assert len(rows) == len(ids)
    for status, version, claim, attempt, ends, events in rows:
        assert (status, claim, ends) == ("succeeded", None, 1)
        assert events == version
        assert attempts is None or attempt == attempts


def _all_done(settings: Settings, ids: list[str]) -> bool:
    with psycopg.connect(settings.database_url) as connection:
        row = connection.execute(
            "SELECT count(*) FROM tasks WHERE id = ANY(%s) AND finished_at IS NULL", (ids,)
        ).fetchone()
    return row == (0,)


def test_a_broker_that_is_wiped_again_and_again_delays_and_loses_nothing(
    client: Any, patient_engine_room: Any, settings: Settings, eventually: Any
) -> None:
    ids: list[str] = []
    stop = threading.Event()

    def wipe() -> None:
        with redis.Redis.from_url(settings.broker_url) as broker:
            while not stop.wait(0.3):
                broker.flushall()

    wiping = threading.Thread(target=wipe)
    wiping.start()
    try:
        for _ in range(3):
            ids += _submit(client)
            time.sleep(0.8)
    finally:
        stop.set()
        wiping.join()

    eventually(lambda: _all_done(settings, ids))
    _assert_each_ended_once(settings, ids)


def test_workers_that_are_killed_delay_and_lose_nothing(
    client: Any, engine_room: Any, settings: Settings, eventually: Any
) -> None:
    worker = engine_room.processes[-1]
    ids = _submit(client)
    eventually(lambda: client.get(f"/tasks/{ids[3]}").json()["done"])

    for _ in range(2):
        worker.send_signal(signal.SIGKILL)
        worker.wait()
        ids += _submit(client)
        worker = engine_room.start_worker()
        time.sleep(2)

    eventually(lambda: _all_done(settings, ids))
    _assert_each_ended_once(settings, ids, attempts=None)


def test_a_relay_that_is_killed_delays_and_loses_nothing(
    client: Any, patient_engine_room: Any, settings: Settings, eventually: Any
) -> None:
    relay = patient_engine_room.processes[0]
    ids = _submit(client)

    for _ in range(2):
        relay.send_signal(signal.SIGKILL)
        relay.wait()
        ids += _submit(client)
        relay = patient_engine_room.start("relay")
        time.sleep(1.5)

    eventually(lambda: _all_done(settings, ids))
    _assert_each_ended_once(settings, ids)


def test_a_rolling_restart_under_load_counts_no_attempt(
    client: Any, patient_engine_room: Any, settings: Settings, eventually: Any
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
        latest = ids[-90]
        eventually(lambda: client.get(f"/tasks/{latest}").json()["done"])  # noqa: B023

    eventually(lambda: _all_done(settings, ids))
    _assert_each_ended_once(settings, ids)
