"""One attempt as its worker holds it: the claimed row, when it must end, and why it was told to."""

from __future__ import annotations

import threading
import time
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


class Attempt:
    """A claimed task, from its claim to its end. Any thread may tell it to stop; its own thread asks."""

    def __init__(self, task: ClaimedTask) -> None:
        self.task = task
        self.started = False
        self.ended = False
        self.ended_as: tuple[str, str | None] = ("queued", None)
        """The status that its end is to be recorded as, and the type of its error."""
        self.claimed_at = time.monotonic()
        self.ran_seconds = 0.0
        """How long it ran, once it has ended."""
        self._first = threading.Lock()
        self._stop: Stopped | None = None
        self._told = threading.Event()
        self._deadline = float("inf")

    def begin(self) -> bool:
        """Begin to count the attempt's time; a claimed task may have waited for a thread. Not if it was withdrawn."""
        if not self._first.acquire(blocking=False):
            return False
        self.started = True
        self._deadline = time.monotonic() + self.task.timeout_seconds
        return True

    @property
    def was_withdrawn(self) -> bool:
        """Whether the attempt was withdrawn before it began."""
        return self._first.locked() and not self.started

    def withdraw(self) -> bool:
        """Let the attempt never begin; gives whether it had not begun, nor been withdrawn."""
        return self._first.acquire(blocking=False)

    def stop(self, reason: Stopped) -> None:
        """Tell the attempt to end; the first reason stays, but a lost claim outweighs any."""
        if self._stop is None or isinstance(reason, ClaimLost):
            self._stop = reason
        self._told.set()

    @property
    def told_to_stop(self) -> bool:
        """Whether it was told to end."""
        return self._stop is not None

    def check(self) -> None:
        """Raise `Stopped` if the attempt must end."""
        if self._stop is not None:
            raise self._stop
        if time.monotonic() >= self._deadline:
            raise TimedOut

    def wait(self, seconds: float) -> None:
        """Wait, and raise `Stopped` as soon as the attempt must end."""
        end = time.monotonic() + seconds
        while True:
            self.check()
            left = min(end, self._deadline) - time.monotonic()
            if left <= 0:
                self.check()
                return
            self._told.wait(left)

    def remaining_seconds(self) -> float:
        """How much of the attempt's time is left; negative when it is over."""
        return self._deadline - time.monotonic()

    def finish_document(self, status: str, **fields: Any) -> dict[str, Any]:
        """Give what `hot_tasks.FINISH` needs to end this attempt."""
        return {"id": self.task.id, "claim": self.task.claim, "status": status, **fields}
