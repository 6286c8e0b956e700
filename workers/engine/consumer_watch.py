"""Ends a worker that lives but no longer consumes, so that whatever watches it starts another.

Celery's issues 8030, 8091 and 10205 are the forms that operators know: after its connection was reset, or broke several
times within seconds, a consumer is connected again, answers pings, and takes nothing from its queues; or it takes a
message from a socket that is half dead, and the message goes nowhere. There are two signs, and each must be seen at every
one of several looks:

unheard     messages lie in a queue of this worker, which has room and hears none
lost        a canary (`workers/beat_scheduler.py`) was published and nobody claimed it, while this worker ran nothing

The second needs no message to lie anywhere, so it also shows a consumer that takes messages and loses them, a claimer that
claims nothing, and a pool that runs nothing. A broker, a database or a relay that is away says nothing of a worker.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

import psycopg
import redis
import structlog

from shared.database.connections import connect_hot
from shared.queries.canaries import CANARY_KIND, LIST_LATE_CANARIES
from shared.settings import Settings

log = structlog.get_logger()

LOOKS: Final = 8
"""How often in a row a sign must be seen."""
LONGEST_LATE_SECONDS: Final = 30.0
"""A canary that nobody claimed for a lease, or for so long, is late."""
SOCKET_SECONDS: Final = 2.0
STATEMENT_SECONDS: Final = 5.0


class Watched(Protocol):
    """What a worker tells of itself. Times are by the monotonic clock."""

    def has_room(self) -> bool:
        """Return whether the worker asks the broker for messages."""

    def is_running(self) -> bool:
        """Return whether an attempt runs."""

    def heard_at(self) -> float:
        """When a message came last."""

    def worked_at(self) -> float:
        """When an attempt ended last."""


class ConsumerWatch:
    """A thread that calls `on_lost` once, when one of the signs was seen for two leases, or for two rings if those are longer.

    Of a lease that is longer than `LONGEST_LATE_SECONDS`, so much counts.
    """

    def __init__(self, settings: Settings, queues: Sequence[str], worker: Watched, on_lost: Callable[[], None]) -> None:
        self._settings = settings
        self._queues = list(queues)
        self._worker = worker
        self._on_lost = on_lost
        self._late_seconds = min(settings.lease_seconds, LONGEST_LATE_SECONDS)
        self._look_seconds = 2 * max(self._late_seconds, settings.rering_seconds) / LOOKS
        self._stopping = threading.Event()
        self._redis = redis.Redis.from_url(
            settings.broker_url, socket_timeout=SOCKET_SECONDS, socket_connect_timeout=SOCKET_SECONDS
        )
        self._connection: psycopg.Connection[tuple[Any, ...]] | None = None
        self._thread = threading.Thread(target=self._run, name="consumer-watch", daemon=True)

    def start(self) -> None:
        """Start to watch."""
        self._thread.start()

    def stop(self) -> None:
        """Watch no more."""
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
        """Look until a sign is certain, and give its name; None when told to stop."""
        unheard = lost = 0
        looked_at = time.monotonic()
        while not self._stopping.wait(self._look_seconds):
            since, looked_at = looked_at, time.monotonic()
            lying = self._do_messages_lie()
            is_deaf = lying and self._worker.has_room() and self._worker.heard_at() < since
            unheard = unheard + 1 if is_deaf else 0
            does_nothing = not self._worker.is_running() and self._worker.worked_at() < since
            lost = self._count_lost(lost) if does_nothing and lying is not None else 0
            if unheard >= LOOKS:
                return "unheard"
            if lost >= LOOKS:
                return "lost"
        return None

    def _do_messages_lie(self) -> bool | None:
        """Return whether a queue has messages, or None if the broker does not answer."""
        try:
            return any(self._redis.llen(queue) for queue in self._queues)
        except (redis.RedisError, OSError):
            return None

    def _count_lost(self, before: int) -> int:
        """Return how often in a row a canary was late. One that is about to be republished changes nothing."""
        try:
            late = self._list_late_canaries()
        except psycopg.Error:
            if self._connection is not None:
                self._connection.close()
            return 0
        unclaimed = [published for _, is_unclaimed, published in late if is_unclaimed]
        return before + any(unclaimed) if unclaimed else 0

    def _list_late_canaries(self) -> list[tuple[Any, ...]]:
        if self._connection is None or self._connection.closed:
            self._connection = connect_hot(self._settings, "worker-watch", timeout_seconds=STATEMENT_SECONDS)
        parameters = {
            "kind": CANARY_KIND,
            "queues": self._queues,
            "seconds": self._late_seconds,
            "alive_seconds": LONGEST_LATE_SECONDS,
        }
        return self._connection.execute(LIST_LATE_CANARIES, parameters).fetchall()
