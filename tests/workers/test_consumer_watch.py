"""A worker that lives and no longer consumes ends, and one that is busy, or whose broker is away, does not."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
import redis

from shared.settings import Settings
from workers.celery_app import make_celery_app
from workers.consumer_watch import ConsumerWatch


def watch_for(settings: Settings, seconds: float, *, idle: bool) -> bool:
    """Whether a watch gives a worker up within so long."""
    lost = threading.Event()
    watch = ConsumerWatch(settings, ["files"], lambda: idle, lost.set)
    watch.start()
    try:
        return lost.wait(seconds)
    finally:
        watch.stop()


@pytest.fixture
def quick(settings: Settings) -> Settings:
    return settings.model_copy(update={"lease_seconds": 0.2})


@pytest.mark.parametrize(("messages", "idle", "is_lost"), [(1, True, True), (1, False, False), (0, True, False)])
def test_only_messages_that_an_idle_worker_leaves_lying_are_a_sign(
    quick: Settings, messages: int, idle: bool, is_lost: bool
) -> None:
    with redis.Redis.from_url(quick.broker_url) as broker:
        for _ in range(messages):
            broker.lpush("files", "a message")

    assert watch_for(quick, 1.5, idle=idle) == is_lost


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
        assert not watch_for(quick, 1.5, idle=True)
    finally:
        stopping.set()
        thread.join()


def test_a_broker_that_is_away_is_no_sign(quick: Settings) -> None:
    away = quick.model_copy(update={"broker_url": "redis://127.0.0.1:1/0"})

    assert not watch_for(away, 1.5, idle=True)


def test_a_worker_that_no_longer_consumes_ends_and_its_successor_does_the_work(
    settings: Settings, api: Any, parts: Any, eventually: Callable[..., Any]
) -> None:
    parts.settings = settings.model_copy(update={"lease_seconds": 1.0})
    client = api.client("operator", "operator")
    parts.start("relay")
    deaf = parts.start_worker("files")
    first = client.post("/tasks", json={"kind": "platform.ping", "params": {}}).headers["location"]
    assert client.get(first, params={"wait": 30}).json()["status"] == "succeeded"

    app = make_celery_app(settings)
    app.control.cancel_consumer("files", reply=True, timeout=5)
    app.close()
    second = client.post("/tasks", json={"kind": "platform.ping", "params": {}}).headers["location"]
    eventually(lambda: deaf.poll() is not None, 30)
    parts.start_worker("files")

    assert deaf.returncode == 1
    assert "consumer_lost" in parts.logs()
    assert client.get(second, params={"wait": 30}).json()["status"] == "succeeded"
