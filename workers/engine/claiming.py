"""Claims what has gathered while the last claim ran, and only as much as there is room for.

Room is a free thread, or a little more while attempts end within milliseconds: then the next ones should be claimed
before a thread asks, but never so many that they would wait long while another worker is idle.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable
from typing import Any, Final, NamedTuple
from uuid import UUID

import psycopg
import structlog

from shared import kill_points
from shared.database.connections import connect_hot
from shared.queries import hot_tasks
from shared.queries.relay import UNRING
from shared.settings import Settings
from workers.engine.attempt import ClaimedTask

log = structlog.get_logger()

MAX_AHEAD: Final = 128
AHEAD_SECONDS: Final = 0.05
"""How long a claimed task may be expected to wait for a thread."""
SMOOTHING: Final = 0.1
RETRY_SECONDS: Final = 0.5
PATIENCE_SECONDS: Final = 0.5
"""How long an id may wait here for room, before the relay is asked to ring for it again, and another worker may answer."""


class Offer(NamedTuple):
    """An id's Celery request, and when it came."""

    request: Any
    at: float


class Claimer:
    """A thread that turns ids into claimed tasks. Ids that cannot be claimed are forgotten: the relay rings again."""

    def __init__(self, settings: Settings, slots: int, start: Callable[[ClaimedTask, Any], None]) -> None:
        self._settings = settings
        self._slots = slots
        self._start = start
        self._pending: dict[UUID, Offer] = {}
        self._taken = 0
        self._mean_seconds = 1.0
        self._changed = threading.Condition()
        self._stopping = False
        self._refused = False
        self.heard_at = time.monotonic()
        """When the last id was offered."""
        self.on_hungry: Callable[[], None] = lambda: None
        """Called, by any thread, when ids are wanted again after `wants_more` said that they were not."""
        self._thread = threading.Thread(target=self._run, name="claimer", daemon=True)

    def start(self) -> None:
        """Begin to claim."""
        self._thread.start()

    def offer(self, task_id: UUID, request: Any) -> None:
        """Let a task be claimed as soon as there is room; an id that waits already is the same bell."""
        self.heard_at = time.monotonic()
        with self._changed:
            if not self._stopping:
                self._pending.setdefault(task_id, Offer(request, time.monotonic()))
                self._changed.notify()

    def release(self, seconds: float | None) -> None:
        """Say that a claimed task has ended, after so many seconds, or (None) without having run."""
        with self._changed:
            self._taken -= 1
            if seconds is not None:
                self._mean_seconds += SMOOTHING * (seconds - self._mean_seconds)
            self._changed.notify()
        self._tell_if_hungry()

    def wants_more(self) -> bool:
        """Whether more ids are wanted: no more should wait here than soon find room, for other workers could have them."""
        hungry = self._is_hungry()
        if not hungry:
            self._refused = True
            # It may have become hungry before it was noted that it was not.
            hungry = self._is_hungry()
        return hungry

    def _is_hungry(self) -> bool:
        return not self._stopping and len(self._pending) < self._room() + self._ahead()

    def _tell_if_hungry(self) -> None:
        if self._refused and self._is_hungry():
            self._refused = False
            self.on_hungry()

    def slow_down(self) -> None:
        """Say that claimed tasks wait: none is claimed ahead until several have ended fast again."""
        with self._changed:
            self._mean_seconds = max(self._mean_seconds, 1.0)

    def stop(self) -> None:
        """Claim nothing more, and give back what waits."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join(timeout=5)

    def _ahead(self) -> int:
        return min(MAX_AHEAD, int(self._slots * AHEAD_SECONDS / max(self._mean_seconds, 1e-6)))

    def _room(self) -> int:
        return self._slots + self._ahead() - self._taken

    def _run(self) -> None:
        connection: psycopg.Connection[tuple[Any, ...]] | None = None
        while not self._stopping or self._pending:
            gathered, unwanted = self._wait()
            if not gathered and not unwanted:
                continue
            self._tell_if_hungry()
            try:
                if connection is None or connection.closed:
                    connection = connect_hot(self._settings, "worker-claim", durable=False)
                if unwanted:
                    self._give_back(connection, unwanted)
                if not gathered:
                    continue
                claimed = self._claim(connection, sorted(gathered))
            except psycopg.Error as error:
                log.warning("claim_failed", error=type(error).__name__)
                self._give_up(connection, gathered)
                continue
            if claimed:
                kill_points.reach("after-claim")
            with self._changed:
                self._taken -= len(gathered) - len(claimed)
            self._tell_if_hungry()
            # In the order in which they were rung, by turn and priority, which the statement does not keep.
            by_id = {task.id: task for task in claimed}
            for task_id, offer in gathered.items():
                if task := by_id.get(task_id):
                    self._start(task, offer.request)
        if connection is not None:
            connection.close()

    def _wait(self) -> tuple[dict[UUID, Offer], list[UUID]]:
        """Wait until there is room for what is offered, and take that; or give the ids that have waited for too long."""
        with self._changed:
            while not self._stopping:
                if not self._pending:
                    self._changed.wait()
                elif (room := self._room()) > 0:
                    gathered = {task_id: self._pending.pop(task_id) for task_id in list(self._pending)[:room]}
                    self._taken += len(gathered)
                    return gathered, []
                elif (left := next(iter(self._pending.values())).at + PATIENCE_SECONDS - time.monotonic()) > 0:
                    self._changed.wait(left)
                else:
                    break
            unwanted = list(self._pending)
            self._pending.clear()
            return {}, unwanted

    def _give_back(self, connection: psycopg.Connection[tuple[Any, ...]], ids: list[UUID]) -> None:
        """Let the relay ring for tasks again. If that fails, it does so by itself, some time later."""
        connection.execute(UNRING, {"ids": ids})
        connection.execute(hot_tasks.NOTIFY)

    def _claim(self, connection: psycopg.Connection[tuple[Any, ...]], ids: list[UUID]) -> list[ClaimedTask]:
        parameters = {
            "ids": "{" + ",".join(map(str, ids)) + "}",
            # Half of the range, so that a claim's complement, which the fence uses too, is never a claim.
            "claims": "{" + ",".join(str(secrets.randbits(63)) for _ in ids) + "}",
            "lease": self._settings.lease_seconds,
        }
        return [ClaimedTask._make(row) for row in connection.execute(hot_tasks.CLAIM, parameters).fetchall()]

    def _give_up(self, connection: psycopg.Connection[tuple[Any, ...]] | None, gathered: dict[UUID, Offer]) -> None:
        """Close the connection and try the ids again soon; what was claimed unseen is swept when its lease is over."""
        if connection is not None:
            connection.close()
        with self._changed:
            self._taken -= len(gathered)
            if not self._stopping:
                self._pending = gathered | self._pending
        time.sleep(RETRY_SECONDS)
