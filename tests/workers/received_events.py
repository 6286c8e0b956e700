"""Receives Celery events as Flower does, for tests that compare them with what happened."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

from shared.settings import Settings
from workers.celery_app import make_celery_app

ENDS = {"task-succeeded", "task-failed", "task-retried", "task-revoked"}


class ReceivedEvents:
    """The events that were received so far."""

    def __init__(self) -> None:
        self.seen: list[dict[str, Any]] = []

    def of(self, task_id: UUID) -> list[dict[str, Any]]:
        return [event for event in self.seen if event.get("uuid") == str(task_id)]

    def end_of(self, task_id: UUID) -> dict[str, Any] | None:
        return next((event for event in self.of(task_id) if event["type"] in ENDS), None)


@contextmanager
def received_events(settings: Settings) -> Iterator[ReceivedEvents]:
    """Receive events in a thread, as Flower does."""
    events, app = ReceivedEvents(), make_celery_app(settings)

    def note(event: dict[str, Any]) -> None:
        events.seen.append(event)

    with app.connection() as connection:
        receiver = app.events.Receiver(connection, handlers={"*": note})
        thread = threading.Thread(target=receiver.capture, kwargs={"limit": None, "wakeup": False}, daemon=True)
        thread.start()
        try:
            yield events
        finally:
            receiver.should_stop = True
            thread.join(timeout=10)
    app.close()
