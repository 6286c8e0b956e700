"""Renews the leases of running attempts, stops cancelled ones, and enforces the hard time limit of attempts."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple
from uuid import UUID

import psycopg
import structlog

from shared.database.connections import connect_hot
from shared.outage_log import OutageLog
from shared.queries import hot_tasks
from shared.queries.queues import ADD_ACTIVITY
from shared.queries.signs_of_life import FORGET_SIGN_OF_LIFE, SHOW_WORKER_SIGN, WORKER_PREFIX
from shared.settings import Settings
from shared.version import VERSION
from workers.engine.activity import Activity
from workers.engine.attempt import Attempt
from workers.outcomes import Cancelled, ClaimLost, TimedOut

log = structlog.get_logger()

HEARTBEAT_TICK_SECONDS: Final = 0.5
LONGEST_WAIT_FOR_SLOT_SECONDS: Final = 0.5
"""How long a claimed task may wait for a slot of this process, before it is requeued for another worker."""
WORKER_SIGN_SECONDS: Final = 5.0
"""How often a worker shows its sign of life."""
COUNT_SECONDS: Final = 1.0
"""How often the counts of attempts that started and ended are written, while there are any."""
HARD_LIMIT_SECONDS: Final = 10.0
"""How long an attempt may run after its timeout without noticing it; then its task is finished and its process ends."""


class RenewedLease(NamedTuple):
    """A row of `hot_tasks.RENEW`."""

    id: UUID
    is_cancel_requested: bool


class Heartbeat:
    """A thread that renews leases every third of a lease, and writes the worker's activity, and its sign of life while it consumes.

    Counts of activity that the database refuses are dropped: they only show how busy a queue is.
    """

    def __init__(
        self,
        settings: Settings,
        list_attempts: Callable[[], list[Attempt]],
        on_stuck: Callable[[Attempt], None],
        on_waiting: Callable[[list[Attempt]], None],
        *,
        worker: str,
        queues: Sequence[str],
        slots: int,
        activity: Activity,
        consumes: Callable[[], bool],
        outage: OutageLog | None = None,
    ) -> None:
        self._settings = settings
        self._outage = outage or OutageLog("database")
        self._list_attempts = list_attempts
        self._on_stuck = on_stuck
        self._on_waiting = on_waiting
        details = {"queues": list(queues), "slots": slots, "version": VERSION}
        self._sign = {"part": WORKER_PREFIX + worker, "details": json.dumps(details)}
        self._activity = activity
        self._consumes = consumes
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def start(self) -> None:
        """Start to renew leases."""
        self._thread.start()

    def stop(self) -> None:
        """Stop renewing leases."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(timeout=5)

    def _run(self) -> None:
        connection: psycopg.Connection[tuple[Any, ...]] | None = None
        next_renewal = next_sign = next_count = 0.0
        while not self._stopping.wait(HEARTBEAT_TICK_SECONDS):
            attempts = self._list_attempts()
            try:
                self._enforce_time_limits(attempts)
            except Exception:
                # An error with one attempt must not end the renewal of the other attempts' leases.
                log.exception("time_limits_not_enforced")
            must_renew = bool(attempts) and time.monotonic() >= next_renewal
            must_sign = time.monotonic() >= next_sign and self._consumes()
            counts = self._activity.take() if time.monotonic() >= next_count else None
            if not must_renew and not must_sign and counts is None:
                continue
            try:
                if connection is None or connection.closed:
                    connection = connect_hot(self._settings, "worker-heartbeat", durable=False, timeout_seconds=5)
                if must_renew:
                    self._renew(connection, attempts)
                    next_renewal = time.monotonic() + self._settings.lease_seconds / 3
                if must_sign:
                    connection.execute(SHOW_WORKER_SIGN, self._sign)
                    next_sign = time.monotonic() + WORKER_SIGN_SECONDS
                if counts is not None:
                    connection.execute(ADD_ACTIVITY, counts)
                    next_count = time.monotonic() + COUNT_SECONDS
                self._outage.end()
            except psycopg.Error as error:
                self._outage.warn(error)
                if connection is not None:
                    connection.close()
        if connection is not None:
            with contextlib.suppress(psycopg.Error), connection:
                if (counts := self._activity.take()) is not None:
                    connection.execute(ADD_ACTIVITY, counts)
                connection.execute(FORGET_SIGN_OF_LIFE, self._sign)

    def _renew(self, connection: psycopg.Connection[tuple[Any, ...]], attempts: list[Attempt]) -> None:
        attempts = sorted(attempts, key=lambda attempt: attempt.task.id)
        parameters = {
            "ids": "{" + ",".join(str(attempt.task.id) for attempt in attempts) + "}",
            "claims": "{" + ",".join(str(attempt.task.claim) for attempt in attempts) + "}",
            "lease": self._settings.lease_seconds,
        }
        rows = [RenewedLease._make(row) for row in connection.execute(hot_tasks.RENEW, parameters).fetchall()]
        renewed = {lease.id: lease for lease in rows}
        for attempt in attempts:
            lease = renewed.get(attempt.task.id)
            if lease is None and not attempt.ended:
                attempt.stop(ClaimLost())
            elif lease is not None and lease.is_cancel_requested:
                attempt.stop(Cancelled())

    def _enforce_time_limits(self, attempts: list[Attempt]) -> None:
        now = time.monotonic()
        if waiting := [a for a in attempts if not a.started and now - a.claimed_at > LONGEST_WAIT_FOR_SLOT_SECONDS]:
            self._on_waiting(waiting)
        for attempt in attempts:
            remaining = attempt.remaining_seconds()
            if remaining <= 0:
                attempt.stop(TimedOut())
            if remaining < -HARD_LIMIT_SECONDS and not attempt.ended:
                self._on_stuck(attempt)
