"""Checks whether a program such as Flower receives Celery events, so that events of tasks are sent only then."""

from __future__ import annotations

import threading
from typing import Final

import redis

from shared.settings import Settings

RECEIVERS_CHECK_SECONDS: Final = 1.0
RECEIVERS_TIMEOUT_SECONDS: Final = 1.0


class EventReceivers:
    """A thread that keeps `exist` up to date.

    The check has a connection of its own: on that of the consumer, which waits for messages, one would take the other's
    reply. It has a thread of its own, because a broker that does not answer must not stop the consumer's loop.
    """

    def __init__(self, settings: Settings) -> None:
        self.exist = False
        """Whether a program received events at the last check; False while the broker does not answer."""
        self._redis = redis.Redis.from_url(
            settings.broker_url,
            socket_timeout=RECEIVERS_TIMEOUT_SECONDS,
            socket_connect_timeout=RECEIVERS_TIMEOUT_SECONDS,
        )
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="event-receivers", daemon=True)

    def start(self) -> None:
        """Start to check."""
        self._thread.start()

    def stop(self) -> None:
        """Stop checking."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(timeout=2 * RECEIVERS_TIMEOUT_SECONDS)
        self._redis.close()

    def _run(self) -> None:
        while True:
            try:
                # A receiver subscribes to a pattern of channels.
                self.exist = bool(self._redis.pubsub_numpat())
            except (redis.RedisError, OSError):
                self.exist = False
            if self._stopping.wait(RECEIVERS_CHECK_SECONDS):
                return
