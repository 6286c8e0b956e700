"""One attempt in its worker: the claimed row, when the attempt must end, and why it was asked to stop."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from typing import Any, NamedTuple
from uuid import UUID

from workers.outcomes import ClaimLost, Stopped, TimedOut


class ClaimedTask(NamedTuple):
    """A row of `hot_tasks.CLAIM`."""

    id: UUID
    claim: int
    attempt: int
    max_attempts: int
    kind: str
    queue: str
    timeout_seconds: int
    organization_id: UUID
    owner_id: UUID
    request_id: str | None
    params: str
    backoff: str | None = None
    """The task's own `backoff` as JSON, or None for that of its kind."""


class Attempt:
    """A claimed task, from its claim to its end. Any thread may request that it stops; its own thread checks for that."""

    def __init__(self, task: ClaimedTask) -> None:
        self.task = task
        self.task_id = str(task.id)
        self.claimed_at = time.monotonic()
        self.started = False
        self.ended = False
        """Whether its handler has ended, or its finish was queued without it."""
        self.ran_seconds = 0.0
        """How long it ran, once it has ended."""
        self.end_status = "queued"
        """The status that the task is to have after it."""
        self.error_type: str | None = None
        self._first = threading.Lock()
        self._began_at = 0.0
        self._stop: Stopped | None = None
        self._stop_requested: threading.Event | None = None
        """Set by `stop`. Created by the first `wait`, since most attempts never wait."""
        self._deadline = float("inf")

    def begin(self) -> bool:
        """Start to count the attempt's time; a claimed task may have waited for a thread. Return False if it was withdrawn."""
        if not self._first.acquire(blocking=False):
            return False
        self.started = True
        self._began_at = time.monotonic()
        self._deadline = self._began_at + self.task.timeout_seconds
        return True

    def end(self, document: Mapping[str, Any] | None) -> None:
        """Note that the handler has ended, and with which document of the finish; None if the claim is lost."""
        self.ran_seconds = time.monotonic() - self._began_at
        self.ended = True
        if document is not None:
            self.end_status = document["status"]
            self.error_type = document.get("error", {}).get("type")

    @property
    def was_withdrawn(self) -> bool:
        """Whether the attempt was withdrawn before it began."""
        return self._first.locked() and not self.started

    def withdraw(self) -> bool:
        """Keep the attempt from starting. Return whether it had neither started nor been withdrawn."""
        return self._first.acquire(blocking=False)

    def stop(self, reason: Stopped) -> None:
        """Request that the attempt stops at its next check. The first reason is kept, but a lost claim replaces any other."""
        if self._stop is None or isinstance(reason, ClaimLost):
            self._stop = reason
        if self._stop_requested is not None:
            self._stop_requested.set()

    def check(self) -> None:
        """Raise `Stopped` if the attempt must stop."""
        if self._stop is not None:
            raise self._stop
        if time.monotonic() >= self._deadline:
            raise TimedOut

    def wait(self, seconds: float) -> None:
        """Wait for so many seconds. Raises `Stopped` as soon as the attempt must stop."""
        end = time.monotonic() + seconds
        if self._stop_requested is None:
            self._stop_requested = threading.Event()
        while True:
            # After the event exists, so that a `stop` is seen here or sets it.
            self.check()
            left = min(end, self._deadline) - time.monotonic()
            if left <= 0:
                self.check()
                return
            self._stop_requested.wait(left)

    def remaining_seconds(self) -> float:
        """Return how many seconds the attempt has left; a negative number once its time is over."""
        return self._deadline - time.monotonic()

    def finish_document(self, status: str, **fields: Any) -> dict[str, Any]:
        """Return what `hot_tasks.FINISH` needs to finish this attempt."""
        return {"id": self.task.id, "claim": self.task.claim, "status": status, **fields}
