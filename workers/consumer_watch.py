"""Ends a worker that lives but no longer consumes, so that whatever watches it starts another.

A consumer whose connection is half dead, or that lost its subscription, looks alive to everyone: it answers pings and
renews nothing, as it has nothing (Celery's issues 8030, 8091 and 10205). The sign is plain: messages lie in a queue of this
worker while it wants more, again and again. A canary of each queue (`workers/beat_scheduler.py`) sees to it that there
are messages.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Final

import redis
import structlog

from shared.settings import Settings

log = structlog.get_logger()

LEASES: Final = 2.0
"""For so many leases must messages lie unasked for."""
LOOKS: Final = 8
"""How often is looked in that time; each time they must lie there."""
SOCKET_SECONDS: Final = 2.0


class ConsumerWatch:
    """A thread that calls `on_lost` once, when the broker has had messages for an idle worker for too long."""

    def __init__(
        self, settings: Settings, queues: Sequence[str], is_idle: Callable[[], bool], on_lost: Callable[[], None]
    ) -> None:
        self._queues = queues
        self._is_idle = is_idle
        self._on_lost = on_lost
        self._patience_seconds = settings.lease_seconds * LEASES
        self._stopping = threading.Event()
        self._redis = redis.Redis.from_url(
            settings.broker_url, socket_timeout=SOCKET_SECONDS, socket_connect_timeout=SOCKET_SECONDS
        )
        self._thread = threading.Thread(target=self._run, name="consumer-watch", daemon=True)

    def start(self) -> None:
        """Begin to watch."""
        self._thread.start()

    def stop(self) -> None:
        """Watch no more."""
        self._stopping.set()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(timeout=SOCKET_SECONDS + 1)
        self._redis.close()

    def _run(self) -> None:
        since: float | None = None
        while not self._stopping.wait(self._patience_seconds / LOOKS):
            if not self._messages_wait():
                since = None
            elif since is None:
                since = time.monotonic()
            elif time.monotonic() - since > self._patience_seconds:
                log.error("consumer_lost", queues=list(self._queues))
                self._on_lost()
                return

    def _messages_wait(self) -> bool:
        """Whether messages lie there for a worker that has nothing to do; a broker that is away says nothing."""
        if not self._is_idle():
            return False
        try:
            return any(self._redis.llen(queue) for queue in self._queues) and self._is_idle()
        except (redis.RedisError, OSError):
            return False
