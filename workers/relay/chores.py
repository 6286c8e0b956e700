"""The relay's periodic work: promote, sweep, expire and republish tasks.

Any number of relays may run; the one that holds the advisory lock does the chores. Two that do them at once do no harm, for
each changes rows that the other has not locked.
"""

from __future__ import annotations

import time
from threading import Event
from typing import Any, Final, NamedTuple
from uuid import UUID

import psycopg
import structlog

from shared.contracts.kind import QUEUES
from shared.database.connections import connect_hot
from shared.queries import relay as queries
from shared.queries.canaries import CANARY_KIND
from shared.queries.publishing import UNMARK_UNCLAIMED
from shared.queries.signs_of_life import IS_SILENT, SHOW_SIGN_OF_LIFE
from shared.settings import Settings
from workers.relay.doorbell import BROKER_ERRORS, Doorbell, LostAttempt

log = structlog.get_logger()

SWEEPER_LOCK: Final = 7_305_114_400_002
"""The advisory lock of the relay that does the chores."""
CHORE_SECONDS: Final = 0.5
CHORE_LIMIT: Final = 1000
"""How many tasks one statement changes at most."""
RELAY_SIGN_SECONDS: Final = 2.0
"""How often the relay and the sweeper show a sign of life."""
BROKER_AWAY_SECONDS: Final = 2.0
"""For how long the chores that need the broker are skipped after it did not answer."""
Connection = psycopg.Connection[tuple[Any, ...]]


class SweptTask(NamedTuple):
    """A row of `SWEEP`."""

    id: UUID
    kind: str
    status: str
    worker: str | None


class Chores:
    """Does the chores while this relay holds the lock, or while no other relay does them."""

    def __init__(self, settings: Settings, doorbell: Doorbell, stopping: Event) -> None:
        self._settings = settings
        self._doorbell = doorbell
        self._stopping = stopping
        self._lost_connection = False
        """Whether the connection was lost, or could not be opened, since the chores were done last."""
        self._broker_away_until = 0.0

    def run(self) -> None:
        """Do the chores until the relay stops. Raises `psycopg.Error` when the database is away.

        A relay that holds the lock may be frozen. So one that waits for the lock does the chores too if no relay has done
        them for a lease.
        """
        try:
            with connect_hot(self._settings, "relay-chores") as connection:
                self._run_on(connection)
        except psycopg.Error:
            self._lost_connection = True
            raise

    def _run_on(self, connection: Connection) -> None:
        holds_lock, next_sign = False, 0.0
        lease_seconds = self._settings.lease_seconds
        silence = {"part": "sweeper", "seconds": max(lease_seconds, 2 * RELAY_SIGN_SECONDS)}
        # During an outage no lease could be renewed, and some have ended. Workers try again each half second, or wait for a
        # connection: they may renew before the sweep. A lease whose worker is lost is still swept within three leases.
        delay_seconds = min(lease_seconds, lease_seconds / 3 + 1) if self._lost_connection else 0.0
        sweep_from = time.monotonic() + delay_seconds
        while not self._stopping.is_set():
            holds_lock = holds_lock or _take_lock(connection)
            if holds_lock or connection.execute(IS_SILENT, silence).fetchone():
                if time.monotonic() >= next_sign:
                    connection.execute(SHOW_SIGN_OF_LIFE, {"part": "sweeper"})
                    next_sign = time.monotonic() + RELAY_SIGN_SECONDS
                self.run_once(connection, sweep=time.monotonic() >= sweep_from)
            self._stopping.wait(CHORE_SECONDS)

    def run_once(self, connection: Connection, *, sweep: bool = True) -> None:
        """Do each chore once."""
        limit = {"limit": CHORE_LIMIT}
        rows = connection.execute(queries.SWEEP, limit).fetchall() if sweep else []
        swept = [SweptTask._make(row) for row in rows]
        for task in swept:
            log.warning("lease_lost", task_id=str(task.id), kind=task.kind, status=task.status, worker=task.worker)
        expired = [task_id for (task_id,) in connection.execute(queries.EXPIRE, limit).fetchall()]
        promoted = connection.execute(queries.PROMOTE, limit).fetchone()
        assert promoted is not None
        if time.monotonic() < self._broker_away_until:
            return
        try:
            self._doorbell.wake_waiters([*(task.id for task in swept), *expired, *promoted[0]])
            self._republish(connection)
            self._doorbell.send_events(
                LostAttempt(task.id, task.worker, task.status)
                for task in swept
                if task.worker and task.kind != CANARY_KIND
            )
            self._doorbell.outage.end()
        except BROKER_ERRORS as error:
            # The other chores need no broker, and must not wait for it each time.
            self._broker_away_until = time.monotonic() + BROKER_AWAY_SECONDS
            self._doorbell.outage.warn(error)

    def _republish(self, connection: Connection) -> None:
        """Unmark tasks whose messages are lost, so that they are published again.

        Messages are interchangeable: as long as one of a queue is left in the broker, whoever receives it claims the next
        task. So tasks are republished where no message is left, if they were published long ago; and everywhere at once if
        the broker has lost its content.
        """
        broker_lost_content = self._doorbell.has_lost_content()
        for queue in QUEUES:
            if not broker_lost_content and self._doorbell.depth(queue) > 0:
                continue
            seconds = 0.0 if broker_lost_content else self._settings.rering_seconds
            parameters = {"queue": queue, "seconds": seconds, "limit": self._settings.window}
            unmarked = connection.execute(UNMARK_UNCLAIMED, parameters).fetchall()
            if unmarked:
                log.info("republished", queue=queue, tasks=len(unmarked), broker_lost_content=broker_lost_content)
        if broker_lost_content:
            self._doorbell.store_marker()


def _take_lock(connection: Connection) -> bool:
    row = connection.execute(queries.TRY_LOCK, {"key": SWEEPER_LOCK}).fetchone()
    assert row is not None
    (is_taken,) = row
    return bool(is_taken)
