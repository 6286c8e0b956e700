"""A worker that no longer receives messages ends. One that is busy, or has no broker, database or relay, does not."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import psycopg
import pytest
import redis
from psycopg.rows import TupleRow

from shared.database.connections import make_engine
from shared.queries.signs_of_life import SHOW_SIGN_OF_LIFE
from shared.settings import Settings
from tests.conftest import PATIENCE_SECONDS, Api, Eventually, Parts
from workers.beat_scheduler import ensure_platform_schedules, insert_due_tasks
from workers.celery_app import make_celery_app
from workers.engine.consumer_watch import ConsumerWatch

LEASE_SECONDS = 0.2
LONG_ENOUGH = 1.5
"""Three times as long as the watch needs to end a worker."""


@dataclass
class Worker:
    """Answers the watch as the test requires."""

    wants: bool = True
    running: bool = False
    receives: bool = False
    works: bool = False
    started_at: float = field(default_factory=time.monotonic)

    def wants_messages(self) -> bool:
        return self.wants

    def is_running(self) -> bool:
        return self.running

    def last_message_at(self) -> float:
        return time.monotonic() if self.receives else self.started_at

    def last_attempt_ended_at(self) -> float:
        return time.monotonic() if self.works else self.started_at


@pytest.fixture
def quick(settings: Settings) -> Settings:
    return settings.model_copy(update={"lease_seconds": LEASE_SECONDS, "rering_seconds": LEASE_SECONDS})


def is_ended(settings: Settings, worker: Worker, *, within: float = LONG_ENOUGH) -> bool:
    """Return whether the watch ends a worker for files within so many seconds."""
    lost = threading.Event()
    watch = ConsumerWatch(settings, ["files"], worker, lost.set)
    watch.start()
    try:
        return lost.wait(within)
    finally:
        watch.stop()


@contextmanager
def waiting_message(settings: Settings) -> Iterator[None]:
    with redis.Redis.from_url(settings.broker_url) as broker:
        broker.lpush("files", "a message")
        yield
        broker.delete("files")


@pytest.mark.parametrize(
    ("worker", "is_ended_by_watch"),
    [
        (Worker(), True),
        (Worker(running=True), True),
        (Worker(wants=False), False),
        (Worker(receives=True), False),
    ],
    ids=["receives nothing", "receives nothing and runs", "wants none", "receives"],
)
def test_messages_that_an_idle_worker_does_not_receive_are_a_sign(
    quick: Settings, worker: Worker, is_ended_by_watch: bool
) -> None:
    with waiting_message(quick):
        assert is_ended(quick, worker, within=20 if is_ended_by_watch else LONG_ENOUGH) == is_ended_by_watch


def test_without_messages_and_without_canaries_there_is_no_sign(quick: Settings) -> None:
    assert not is_ended(quick, Worker())


def test_messages_that_come_and_go_are_no_sign(quick: Settings) -> None:
    stopping = threading.Event()

    def come_and_go() -> None:
        with redis.Redis.from_url(quick.broker_url) as broker:
            while not stopping.wait(0.04):
                broker.lpush("files", "a message")
                broker.delete("files")

    thread = threading.Thread(target=come_and_go)
    thread.start()
    try:
        assert not is_ended(quick, Worker())
    finally:
        stopping.set()
        thread.join(PATIENCE_SECONDS)


@pytest.fixture
def canary(quick: Settings) -> Iterator[psycopg.Connection[Any]]:
    """A published canary that nobody has claimed, while a relay runs."""
    engine = make_engine(quick, "test")
    ensure_platform_schedules(engine)
    insert_due_tasks(engine)
    engine.dispose()
    with psycopg.connect(quick.database_url, autocommit=True) as connection:
        for part in ("relay", "sweeper"):
            connection.execute(SHOW_SIGN_OF_LIFE, {"part": part})
        connection.execute("UPDATE tasks SET rung_at = now() WHERE kind = 'platform.canary'")
        yield connection


@pytest.mark.parametrize(
    ("worker", "is_ended_by_watch"),
    [
        (Worker(), True),
        (Worker(receives=True), True),
        (Worker(wants=False), True),
        (Worker(running=True), False),
        (Worker(works=True), False),
    ],
    ids=["idle", "receives messages", "wants none", "runs", "finishes"],
)
def test_a_lost_canary_is_a_sign_for_an_idle_worker_only(
    canary: psycopg.Connection[TupleRow], quick: Settings, worker: Worker, is_ended_by_watch: bool
) -> None:
    assert is_ended(quick, worker, within=20 if is_ended_by_watch else LONG_ENOUGH) == is_ended_by_watch


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE tasks SET status = 'cancelled', finished_at = now(), purge_at = now()",
        "UPDATE tasks SET rung_at = NULL",
        "UPDATE signs_of_life SET at = now() - interval '1 minute' WHERE part = 'relay'",
        "UPDATE signs_of_life SET at = now() - interval '1 minute' WHERE part = 'sweeper'",
        "UPDATE schedules SET enabled = false WHERE name = 'canary-files'",
        "UPDATE tasks SET created_at = now() + interval '1 minute'",
    ],
    ids=["done", "not published", "no relay", "no sweeper", "switched off", "young"],
)
def test_a_canary_that_no_worker_could_claim_is_no_sign(
    canary: psycopg.Connection[TupleRow], quick: Settings, change: str
) -> None:
    canary.execute(change)

    assert not is_ended(quick, Worker())


@pytest.mark.parametrize("away", ["broker_url", "database_url"])
def test_a_broker_or_a_database_that_is_away_is_no_sign(
    canary: psycopg.Connection[TupleRow], quick: Settings, away: str
) -> None:
    nowhere = {"broker_url": "redis://127.0.0.1:1/0", "database_url": "postgresql://taskmill@127.0.0.1:1/nope"}

    assert not is_ended(quick.model_copy(update={away: nowhere[away]}), Worker())


def stop_consuming(broker_url: str) -> None:
    """End the subscription of every worker for files, by remote control; the workers stay alive otherwise."""
    app = make_celery_app(Settings(broker_url=broker_url))
    answers = app.control.cancel_consumer("files", reply=True, limit=1, timeout=PATIENCE_SECONDS)
    app.close()
    assert answers


def submit_ping(client: httpx2.Client, **params: int) -> str:
    """Submit a task and return its path."""
    return str(client.post("/tasks", json={"kind": "platform.ping", "params": params}).headers["location"])


def is_now(client: httpx2.Client, path: str, status: str) -> bool:
    return bool(client.get(path).json()["status"] == status)


def start_patient_worker(parts: Parts) -> None:
    """Start a worker that a busy machine does not make look as if it consumed nothing."""
    parts.settings = parts.settings.model_copy(update={"lease_seconds": 30.0})
    parts.start_worker("files")


def test_a_worker_that_no_longer_consumes_ends_and_another_runs_its_tasks(
    settings: Settings, api: Api, parts: Parts, eventually: Eventually
) -> None:
    parts.settings = settings.model_copy(
        update={"lease_seconds": 1.0, "rering_seconds": 1.0, "worker_remote_control": True}
    )
    client = api.client("operator", "operator")
    parts.start("relay")
    worker = parts.start_worker("files")
    first = submit_ping(client)
    eventually(lambda: is_now(client, first, "succeeded"))

    stop_consuming(settings.broker_url)
    second = submit_ping(client)
    eventually(lambda: worker.poll() is not None)
    start_patient_worker(parts)

    assert worker.returncode == 1
    assert "messages_not_received" in parts.logs()
    eventually(lambda: is_now(client, second, "succeeded"))


def test_a_worker_that_no_longer_consumes_requeues_without_counting_attempts(
    settings: Settings, api: Api, parts: Parts, eventually: Eventually
) -> None:
    parts.settings = settings.model_copy(
        update={
            "lease_seconds": 4.0,
            "rering_seconds": 1.0,
            "shutdown_grace_seconds": 1.0,
            "worker_remote_control": True,
        }
    )
    client = api.client("operator", "operator")
    parts.start("relay")
    worker = parts.start_worker("files", concurrency=2)
    long = submit_ping(client, sleep_ms=60_000)
    eventually(lambda: is_now(client, long, "running"))

    stop_consuming(settings.broker_url)
    second = submit_ping(client)
    eventually(lambda: worker.poll() is not None)

    assert worker.returncode == 1
    assert (client.get(long).json()["status"], client.get(long).json()["attempt"]) == ("queued", 0)
    start_patient_worker(parts)
    eventually(lambda: is_now(client, second, "succeeded"))
    eventually(lambda: is_now(client, long, "running"))
    assert client.get(long).json()["attempt"] == 1


LOSING_WORKER = """
import sys
from pathlib import Path
from shared.settings import read_settings
from workers.engine import claiming
from workers.engine import worker_process

loses = Path({file!r})

def lose(self, queue, tasks):
    if not loses.exists():
        announce(self, queue, tasks)

announce, claiming.Claimer.announce = claiming.Claimer.announce, lose
worker_process.run_worker(read_settings(), ["files"], 2)
"""
"""Drops every message as soon as a file exists, as a half closed connection does."""


def test_a_worker_that_loses_messages_ends_when_its_canary_is_lost(
    settings: Settings, api: Api, parts: Parts, eventually: Eventually, tmp_path: Path
) -> None:
    parts.settings = settings.model_copy(update={"lease_seconds": 1.0, "rering_seconds": 1.0})
    client = api.client("operator", "operator")
    loses = tmp_path / "loses messages"
    parts.start("relay")
    losing = parts.start_script(LOSING_WORKER.format(file=str(loses)))
    first = submit_ping(client)
    eventually(lambda: is_now(client, first, "succeeded"))

    loses.touch()
    second = submit_ping(client)
    parts.start("beat")
    eventually(lambda: losing.poll() is not None)
    start_patient_worker(parts)

    assert losing.returncode == 1
    assert re.search(r'"sign": ?"canary_not_claimed"', parts.logs())
    eventually(lambda: is_now(client, second, "succeeded"))
