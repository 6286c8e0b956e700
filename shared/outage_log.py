"""Logs outages of the database and the broker, for components that retry until the outage is over."""

from __future__ import annotations

import threading
import time
from typing import Final, Literal

import psycopg
import redis
import structlog

log = structlog.get_logger()

OUTAGE_LOG_SECONDS: Final = 30.0
"""How long the same reason of an outage is not logged again."""
_EVENTS: Final = {"database": ("database_away", "database_back"), "broker": ("broker_away", "broker_back")}


class OutageLog:
    """Logs that a dependency is away: each reason at once, then every half minute. Logs once when it is back.

    Threads may share one.
    """

    def __init__(self, dependency: Literal["database", "broker"] = "database") -> None:
        self._away_event, self._back_event = _EVENTS[dependency]
        self._silent_until: dict[str, float] = {}
        self._away_since: float | None = None
        self._lock = threading.Lock()

    def warn(self, error: BaseException) -> None:
        """Log why the dependency is away, unless the same reason was logged within the last half minute.

        A deadlock is logged as what it is: Postgres rolled one transaction back, and is not away.
        """
        if isinstance(getattr(error, "orig", None) or error, psycopg.errors.DeadlockDetected):
            log.warning("deadlock_detected", todo="nothing: what was rolled back is tried again")
            return
        reason, now = describe_outage(error), time.monotonic()
        with self._lock:
            if self._away_since is None:
                self._away_since = now
            if now < self._silent_until.get(reason, now):
                return
            self._silent_until = {logged: until for logged, until in self._silent_until.items() if until > now}
            self._silent_until[reason] = now + OUTAGE_LOG_SECONDS
        log.warning(self._away_event, reason=reason)

    def end(self) -> None:
        """Log that the dependency is back, if an outage was logged. Call it after each success, which is cheap."""
        if self._away_since is None:
            return
        with self._lock:
            if self._away_since is None:
                return
            seconds, self._away_since = time.monotonic() - self._away_since, None
            self._silent_until.clear()
        log.info(self._back_event, after_seconds=round(seconds, 1))


def describe_outage(error: BaseException) -> str:
    """Return an error as one line. It contains no parameter of a statement and no password."""
    cause = getattr(error, "orig", None) or error
    is_about_connection = isinstance(cause, (psycopg.OperationalError, redis.RedisError, OSError))
    text = " ".join(str(cause).split()) if is_about_connection else ""
    return text or type(cause).__name__
