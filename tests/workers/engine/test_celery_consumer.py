"""The events of attempts that receivers of Celery events get, such as Flower."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import UUID, uuid4

import pytest

from cli.local_stack.broker import BrokerServer
from shared.settings import Settings
from tests.conftest import Eventually, Parts
from tests.workers.conftest import Tasks
from tests.workers.received_events import received_events
from workers.celery_app import make_celery_app
from workers.engine.attempt import Attempt, ClaimedTask
from workers.engine.celery_consumer import CeleryPool
from workers.engine.event_receivers import EventReceivers
from workers.outcomes import Requeued

LONG = {"sleep_ms": 60_000, "echo": "a secret"}


def test_receivers_of_events_see_claimed_tasks_as_they_end_and_no_others(
    tasks: Tasks, engine_room: Parts, settings: Settings, eventually: Eventually
) -> None:
    with received_events(settings) as events:
        # A worker sends events of tasks once it has noticed a receiver, without a command.
        warm: list[UUID] = []

        def see_one() -> bool:
            # With a pause, because after many fast tasks a worker would claim ahead.
            warm.append(tasks.submit_one(params={"echo": "a secret"}))
            time.sleep(0.3)
            return any(events.of(task_id) for task_id in warm)

        eventually(see_one)
        succeeded = tasks.submit_one(params={"echo": "a secret"})
        failed = tasks.submit_one(params=LONG, timeout=1, max_attempts=1)
        eventually(lambda: events.end_of(succeeded) and events.end_of(failed))
        running = tasks.submit(count=2, params=LONG)
        eventually(lambda: tasks.statuses(running) == {"running"})
        never_claimed = tasks.submit_one(params=LONG)
        eventually(lambda: tasks.get(never_claimed).rung_at)
        tasks.cancel(never_claimed)
        for task_id in running:
            tasks.cancel(task_id)
        eventually(lambda: all(events.end_of(task_id) for task_id in running))
        retried = tasks.submit_one(params=LONG, timeout=1)
        eventually(lambda: events.end_of(retried))

    ends = {task_id: events.end_of(task_id) for task_id in (succeeded, failed, running[0], running[1], retried)}
    assert [end and end["type"] for end in ends.values()] == [
        "task-succeeded",
        "task-failed",
        "task-revoked",
        "task-revoked",
        "task-retried",
    ]
    assert [event["type"] for event in events.of(succeeded)][:2] == ["task-received", "task-started"]
    assert events.of(succeeded)[0]["name"] == "platform.ping"
    assert {(end or {}).get("exception") for end in (ends[failed], ends[retried])} == {"/problems/timed-out"}
    assert events.of(never_claimed) == []
    assert "secret" not in str(events.seen)
    # The worker looks for receivers while it waits for messages, and must not take one reply for the other.
    assert "message_dropped" not in engine_room.logs()


def test_receivers_are_noticed_and_none_exist_while_the_broker_does_not_answer(
    settings: Settings, tmp_path: Path, eventually: Eventually
) -> None:
    with BrokerServer(tmp_path / "own-broker") as broker:
        settings = settings.model_copy(update={"broker_url": broker.url})
        receivers = EventReceivers(settings)
        receivers.start()
        with received_events(settings):
            eventually(lambda: receivers.exist)

            os.kill(broker.pid, signal.SIGSTOP)
            try:
                eventually(lambda: not receivers.exist)
            finally:
                os.kill(broker.pid, signal.SIGCONT)
            eventually(lambda: receivers.exist)
        eventually(lambda: not receivers.exist)
        receivers.stop()


class StubPool:
    """Stands for Celery's pool: it stores the calls."""

    def __init__(self) -> None:
        self.calls: list[dict[str, Any]] = []

    def apply_async(self, *_: object, **options: object) -> object:
        self.calls.append(options)
        return self


class StubConsumer:
    """Stands for Celery's consumer: it stores the events."""

    def __init__(self) -> None:
        self.hostname = "worker@test"
        self.pool = StubPool()
        self.connection_errors = ()
        self.events: list[tuple[str, str]] = []
        self.event_dispatcher = SimpleNamespace(enabled=True, send=self._note)

    def _note(self, event_type: str, *, uuid: str, **_: object) -> None:
        self.events.append((event_type, uuid))


def make_attempt(kind: str = "platform.ping") -> Attempt:
    return Attempt(ClaimedTask(uuid4(), 1, 1, 3, kind, "files", 60, uuid4(), uuid4(), None, "{}"))


@pytest.fixture
def consumer() -> StubConsumer:
    return StubConsumer()


@pytest.fixture
def pool(consumer: StubConsumer) -> CeleryPool:
    pool = CeleryPool(make_celery_app(Settings()), lambda task_id: None)
    pool.attach(consumer)
    return pool


def test_nothing_follows_the_event_that_an_attempt_was_requeued(pool: CeleryPool, consumer: StubConsumer) -> None:
    attempt = make_attempt()

    pool.execute(attempt)
    attempt.withdraw()
    attempt.stop(Requeued())
    pool.announce_requeue(attempt)
    consumer.pool.calls[0]["accept_callback"](1, time.monotonic())

    task_id = str(attempt.task.id)
    assert consumer.events == [("task-received", task_id), ("task-retried", task_id)]


def test_there_are_no_events_of_canaries(pool: CeleryPool, consumer: StubConsumer) -> None:
    canary = make_attempt("platform.canary")

    pool.execute(canary)
    consumer.pool.calls[0]["accept_callback"](1, time.monotonic())
    pool.announce_requeue(canary)

    assert len(consumer.pool.calls) == 1
    assert consumer.events == []
