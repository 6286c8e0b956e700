"""What those who watch Celery's events, as Flower does, are told of attempts."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from shared.settings import Settings
from tests.conftest import PATIENCE_SECONDS
from workers.celery_app import make_celery_app


@pytest.mark.parametrize(
    ("options", "event", "status"),
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
def test_an_attempt_is_told_of_as_it_ended(
    tasks: Any,
    engine_room: Any,
    settings: Settings,
    eventually: Any,
    options: dict[str, Any],
    event: str,
    status: str,
) -> None:
    app = make_celery_app(settings)
    seen: list[dict[str, Any]] = []
    submitted: list[Any] = []
    eventually(lambda: app.control.enable_events(reply=True))
    with app.connection() as connection:
        receiver = app.events.Receiver(connection, handlers={"*": seen.append})
        threading.Timer(0.5, lambda: submitted.append(tasks.submit_one(**options))).start()
        for _ in receiver.itercapture(limit=None, timeout=PATIENCE_SECONDS, wakeup=False):
            if any(one["type"] in {"task-succeeded", "task-failed", "task-retried"} for one in seen):
                break
    app.close()

    (task_id,) = submitted
    (end,) = [one for one in seen if one["type"] in {"task-succeeded", "task-failed", "task-retried"}]
    assert (end["uuid"], end["type"]) == (str(task_id), event)
    assert end.get("exception") == (None if status == "succeeded" else "/problems/timed-out")
    eventually(lambda: tasks.status(task_id) == status)
    assert "secret" not in str(seen)


def test_a_cancelled_task_is_told_of_as_revoked(
    tasks: Any, engine_room: Any, settings: Settings, eventually: Any
) -> None:
    app = make_celery_app(settings)
    seen: list[dict[str, Any]] = []
    eventually(lambda: app.control.enable_events(reply=True))
    task_id = tasks.submit_one(params={"sleep_ms": 60_000})
    eventually(lambda: tasks.status(task_id) == "running")
    with app.connection() as connection:
        receiver = app.events.Receiver(connection, handlers={"*": seen.append})
        threading.Timer(0.5, tasks.cancel, (task_id,)).start()
        for _ in receiver.itercapture(limit=None, timeout=PATIENCE_SECONDS, wakeup=False):
            if any(one["type"] == "task-revoked" for one in seen):
                break
    app.close()

    assert {one["uuid"] for one in seen if one["type"] == "task-revoked"} == {str(task_id)}
