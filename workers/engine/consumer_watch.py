"""Ends a worker process that no longer consumes, so that its supervisor starts another.

Celery's issues 8030, 8091 and 10205 describe how that happens: after its connection was reset, or broke several times within
seconds, a consumer is connected again, answers pings, and receives nothing from its queues; or it reads a message from a
connection that is half closed, and the message is lost. There are two signs. Each must be seen at several checks in a row:

messages_not_received   messages are in a queue of this worker, which wants messages and receives none
canary_not_claimed      a canary (`workers/beat_scheduler.py`) was published and nobody claimed it, while this worker ran nothing

The second does not need a message in a queue, so it also shows a consumer that receives messages and loses them, a claimer
that claims nothing, and a pool that runs nothing. While the broker, the database or the relay is away, neither is counted.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple, Protocol

import psycopg
import redis
import structlog

from shared.database.connections import connect_hot
from shared.queries.canaries import CANARY_KIND, LIST_LATE_CANARIES
from shared.settings import Settings

log = structlog.get_logger()

CHECKS: Final = 8
"""At how many checks in a row a sign must be seen."""
LONGEST_LATE_SECONDS: Final = 30.0
"""A canary that nobody claimed for a lease, or for so long, is late."""
SOCKET_SECONDS: Final = 2.0
STATEMENT_SECONDS: Final = 5.0


class LateCanary(NamedTuple):
    """A row of `LIST_LATE_CANARIES`."""

    queue: str
    is_unclaimed: bool
    is_published: bool


class Watched(Protocol):
    """What the watch asks a worker. Times are by the monotonic clock."""

    def wants_messages(self) -> bool:
        """Return whether the worker asks the broker for messages."""

    def is_running(self) -> bool:
        """Return whether an attempt runs."""

    def last_message_at(self) -> float:
        """Return when the last message arrived."""

    def last_attempt_ended_at(self) -> float:
        """Return when the last attempt ended."""


class ConsumerWatch:
    """A thread that calls `on_lost` once, after a sign was seen for two leases, or for two times of republishing if longer.

    A lease that is longer than `LONGEST_LATE_SECONDS` counts as that long.
    """

    def __init__(self, settings: Settings, queues: Sequence[str], worker: Watched, on_lost: Callable[[], None]) -> None:
        self._settings = settings
        self._queues = list(queues)
        self._worker = worker
        self._on_lost = on_lost
        self._late_seconds = min(settings.lease_seconds, LONGEST_LATE_SECONDS)
        self._check_seconds = 2 * max(self._late_seconds, settings.rering_seconds) / CHECKS
        self._stopping = threading.Event()
        self._redis = redis.Redis.from_url(
            settings.broker_url, socket_timeout=SOCKET_SECONDS, socket_connect_timeout=SOCKET_SECONDS
        )
        self._connection: psycopg.Connection[tuple[Any, ...]] | None = None
        self._thread = threading.Thread(target=self._run, name="consumer-watch", daemon=True)

    def start(self) -> None:
        """Start to check."""
        self._thread.start()

    def stop(self) -> None:
        """Stop checking."""
        self._stopping.set()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(timeout=SOCKET_SECONDS + 1)
        self._redis.close()

    def _run(self) -> None:
        try:
            if sign := self._watch():
                log.error("consumer_lost", queues=self._queues, sign=sign)
                self._on_lost()
        finally:
            if self._connection is not None:
                self._connection.close()

    def _watch(self) -> str | None:
        """Check until a sign was seen often enough, and return its name, or None after `stop`."""
        not_received = not_claimed = 0
        checked_at = time.monotonic()
        while not self._stopping.wait(self._check_seconds):
            since, checked_at = checked_at, time.monotonic()
            has_messages = self._have_queues_messages()
            receives_none = has_messages and self._worker.wants_messages() and self._worker.last_message_at() < since
            not_received = not_received + 1 if receives_none else 0
            runs_nothing = not self._worker.is_running() and self._worker.last_attempt_ended_at() < since
            not_claimed = self._count_late_canary(not_claimed) if runs_nothing and has_messages is not None else 0
            if not_received >= CHECKS:
                return "messages_not_received"
            if not_claimed >= CHECKS:
                return "canary_not_claimed"
        return None

    def _have_queues_messages(self) -> bool | None:
        """Return whether a queue has messages, or None if the broker does not answer."""
        try:
            return any(self._redis.llen(queue) for queue in self._queues)
        except (redis.RedisError, OSError):
            return None

    def _count_late_canary(self, before: int) -> int:
        """Return at how many checks in a row a canary was late. One that is about to be republished changes nothing."""
        try:
            late = self._list_late_canaries()
        except psycopg.Error:
            if self._connection is not None:
                self._connection.close()
            return 0
        unclaimed = [canary for canary in late if canary.is_unclaimed]
        return before + any(canary.is_published for canary in unclaimed) if unclaimed else 0

    def _list_late_canaries(self) -> list[LateCanary]:
        if self._connection is None or self._connection.closed:
            self._connection = connect_hot(self._settings, "worker-watch", timeout_seconds=STATEMENT_SECONDS)
        parameters = {
            "kind": CANARY_KIND,
            "queues": self._queues,
            "seconds": self._late_seconds,
            "alive_seconds": LONGEST_LATE_SECONDS,
        }
        rows = self._connection.execute(LIST_LATE_CANARIES, parameters).fetchall()
        return [LateCanary._make(row) for row in rows]
