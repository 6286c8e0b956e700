"""Writes the progress of attempts."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any
from uuid import UUID

import psycopg

from shared.queries import hot_tasks
from workers.outcomes import ClaimLost


class ProgressWriter:
    """Writes the progress of any attempt of this process; not durably, because a crash ends the attempt too."""

    def __init__(
        self, connect: Callable[[], psycopg.Connection[tuple[Any, ...]]], wake_waiters: Callable[[list[UUID]], None]
    ) -> None:
        self._connect = connect
        self.wake_waiters = wake_waiters
        """Wakes the requests that wait for tasks."""
        self._lock = threading.Lock()
        self._connection: psycopg.Connection[tuple[Any, ...]] | None = None

    def write(self, task_id: UUID, claim: int, percent: int, message: str | None) -> bool:
        """Write progress; return whether a cancel is requested. Raises `ClaimLost`.

        While the database is away the progress is lost, and the attempt goes on.
        """
        parameters = {"id": task_id, "claim": claim, "percent": percent, "message": message}
        with self._lock:
            try:
                if self._connection is None or self._connection.closed:
                    self._connection = self._connect()
                row = self._connection.execute(hot_tasks.REPORT_PROGRESS, parameters).fetchone()
            except psycopg.OperationalError:
                if self._connection is not None:
                    self._connection.close()
                return False
        if row is None:
            raise ClaimLost
        self.wake_waiters([task_id])
        (is_cancel_requested,) = row
        return bool(is_cancel_requested)

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.close()
