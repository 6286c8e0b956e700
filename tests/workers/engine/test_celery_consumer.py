"""The events that Flower, and whoever else watches Celery's events, receives about attempts."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any
from uuid import UUID, uuid4

import pytest

from shared.settings import Settings
from tests.conftest import PATIENCE_SECONDS, Eventually, Parts
from tests.workers.conftest import Tasks
from workers.celery_app import make_celery_app
from workers.engine.attempt import Attempt, ClaimedTask
from workers.engine.celery_consumer import CeleryExecutor
from workers.outcomes import HandedBack

Event = dict[str, Any]
END_EVENTS = {"task-succeeded", "task-failed", "task-retried", "task-revoked"}


def receive_until_end(settings: Settings, act: Callable[[], object]) -> list[Event]:
    """Do something that makes an attempt end, and return the events until then."""
    app = make_celery_app(settings)
    events: list[Event] = []
    with app.connection() as connection:
        receiver = app.events.Receiver(connection, handlers={"*": events.append})
        threading.Timer(0.5, act).start()
        for _ in receiver.itercapture(limit=None, timeout=PATIENCE_SECONDS, wakeup=False):
            if any(event["type"] in END_EVENTS for event in events):
                break
    app.close()
    return events


@pytest.mark.parametrize(
    ("options", "event_type", "status"),
    [
        ({"params": {"echo": "a secret"}}, "task-succeeded", "succeeded"),
        (
            {"params": {"sleep_ms": 60_000, "echo": "a secret"}, "timeout": 1, "max_attempts": 1},
            "task-failed",
            "failed",
        ),
        ({"params": {"sleep_ms": 60_000, "echo": "a secret"}, "timeout": 1}, "task-retried", "retrying"),
    ],
)
def test_the_last_event_of_an_attempt_says_how_it_ended(
    tasks: Tasks,
    engine_room: Parts,
    settings: Settings,
    eventually: Eventually,
    options: dict[str, Any],
    event_type: str,
    status: str,
) -> None:
    submitted: list[UUID] = []

    events = receive_until_end(settings, lambda: submitted.append(tasks.submit_one(**options)))

    (task_id,) = submitted
    (end,) = [event for event in events if event["type"] in END_EVENTS]
    assert (end["uuid"], end["type"]) == (str(task_id), event_type)
    assert end.get("exception") == (None if status == "succeeded" else "/problems/timed-out")
    eventually(lambda: tasks.status(task_id) == status)
    assert "secret" not in str(events)


def test_the_attempt_of_a_cancelled_task_is_shown_as_revoked(
    tasks: Tasks, engine_room: Parts, settings: Settings, eventually: Eventually
) -> None:
    task_id = tasks.submit_one(params={"sleep_ms": 60_000})
    eventually(lambda: tasks.status(task_id) == "running")

    events = receive_until_end(settings, lambda: tasks.cancel(task_id))

    assert {event["uuid"] for event in events if event["type"] == "task-revoked"} == {str(task_id)}


class StubPool:
    """Stands for Celery's pool: it keeps what it is to call."""

    def __init__(self) -> None:
        self.calls: list[dict[str, Any]] = []

    def apply_async(self, *_: object, **options: Any) -> object:
        self.calls.append(options)
        return self


class StubConsumer:
    """Stands for Celery's consumer: it keeps the events."""

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
def executor(consumer: StubConsumer) -> CeleryExecutor:
    executor = CeleryExecutor(make_celery_app(Settings()), lambda task_id: None)
    executor.attach(consumer)
    return executor


def test_nothing_follows_the_event_that_an_attempt_was_requeued(
    executor: CeleryExecutor, consumer: StubConsumer
) -> None:
    attempt = make_attempt()

    executor.execute(attempt)
    attempt.withdraw()
    attempt.stop(HandedBack())
    executor.announce_requeue(attempt)
    consumer.pool.calls[0]["accept_callback"](1, time.monotonic())

    task_id = str(attempt.task.id)
    assert consumer.events == [("task-received", task_id), ("task-retried", task_id)]


def test_there_are_no_events_of_canaries(executor: CeleryExecutor, consumer: StubConsumer) -> None:
    canary = make_attempt("platform.canary")

    executor.execute(canary)
    consumer.pool.calls[0]["accept_callback"](1, time.monotonic())
    executor.announce_requeue(canary)

    assert len(consumer.pool.calls) == 1
    assert consumer.events == []
