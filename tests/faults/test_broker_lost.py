"""A broker that loses its content, freezes, is wiped, or is full: tasks are delayed, and none is lost or run twice."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import httpx2
import pytest
import redis

from cli.local_stack.broker import BrokerServer
from shared.settings import Settings
from tests.conftest import Api
from tests.faults.conftest import ChooseDuration, Health, MailServer, Room


@pytest.fixture
def own_broker(tmp_path: Path) -> Iterator[BrokerServer]:
    with BrokerServer(tmp_path / "broker") as server:
        yield server


@pytest.fixture
def settings(settings: Settings, own_broker: BrokerServer) -> Settings:
    return settings.model_copy(update={"broker_url": own_broker.url})


def test_accepted_tasks_are_done_after_the_broker_lost_its_content(
    room: Room, client: httpx2.Client, own_broker: BrokerServer
) -> None:
    room.relay()
    tasks = room.submit_many(client, 100)
    with redis.Redis.from_url(own_broker.url) as broker:
        room.eventually(lambda: broker.llen("files"))
    own_broker.kill()
    shutil.rmtree(own_broker.directory / "data")
    tasks += room.submit_many(client, 100)
    own_broker.start()
    room.worker()

    assert set(room.settle().values()) == {"succeeded"}
    assert room.ask("SELECT max(attempt) FROM tasks") == [(1,)]


def test_a_frozen_broker_delays_no_submission_and_no_upload(
    room: Room, client: httpx2.Client, api: Api, own_broker: BrokerServer, health: type[Health], lasting: ChooseDuration
) -> None:
    room.relay()
    room.worker()
    room.wait_for(room.submit(client), "succeeded")
    pid = own_broker.pid
    assert pid is not None
    took: list[float] = []
    with health(api.url) as asked:
        os.kill(pid, signal.SIGSTOP)
        try:
            end = time.monotonic() + lasting(6, 60)
            while time.monotonic() < end:
                began = time.monotonic()
                room.submit(client)
                answer = client.post("/files", files={"file": ("a.txt", b"hello")})
                assert answer.status_code == 202
                room.note(answer.json()["id"])
                took.append(time.monotonic() - began)
                time.sleep(0.1)
        finally:
            os.kill(pid, signal.SIGCONT)

    assert set(room.settle().values()) == {"succeeded"}
    # A single request may be slow on a busy machine. Requests that wait for the broker would all be slow.
    assert median(took) < 2
    assert asked.failures == []
    assert median(asked.seconds) < 2


def test_a_broker_that_is_wiped_repeatedly_under_load_loses_no_task(
    room: Room, client: httpx2.Client, own_broker: BrokerServer
) -> None:
    room.relay()
    room.worker()
    with redis.Redis.from_url(own_broker.url) as broker:
        for _ in range(15):
            room.submit_many(client, 20, sleep_ms=2)
            broker.flushall()
            time.sleep(0.1)

    assert set(room.settle().values()) == {"succeeded"}


def test_a_full_broker_delays_tasks_and_loses_none(room: Room, client: httpx2.Client, own_broker: BrokerServer) -> None:
    room.relay()
    room.worker()
    room.wait_for(room.submit(client), "succeeded")
    with redis.Redis.from_url(own_broker.url) as broker:
        broker.config_set("maxmemory", "1")
        room.submit_many(client, 50)
        room.eventually(lambda: "broker_away" in room.parts.logs())
        broker.config_set("maxmemory", "0")
    # A full broker may end a worker, now or soon; a supervisor would start another.
    room.worker()

    assert set(room.settle().values()) == {"succeeded"}


def test_each_task_runs_once_although_each_message_is_delivered_five_times(
    room: Room, client: httpx2.Client, mail: MailServer, own_broker: BrokerServer
) -> None:
    room.relay()
    room.submit_many(client, 60)
    for number in range(5):
        room.email(client, f"r{number}@example.com")
    with redis.Redis.from_url(own_broker.url) as broker:
        room.eventually(lambda: broker.llen("files") and broker.llen("email") >= 5)
        for queue in ("files", "email"):
            messages = broker.lrange(queue, 0, -1)
            for _ in range(4):
                broker.lpush(queue, *messages)
    room.worker()
    room.worker()

    assert set(room.settle().values()) == {"succeeded"}
    assert room.ask("SELECT max(attempt) FROM tasks") == [(1,)]
    assert mail.recipients == [f"r{number}@example.com" for number in range(5)]
