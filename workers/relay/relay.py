"""The only publisher: rings what is due, rings again what nobody claimed, takes back lost leases, expires.

Any number of relays may run. Each releases due tasks, for rows are taken with SKIP LOCKED; the chores are done by
whichever holds the advisory lock. A task is marked as rung, and that is committed, before its message is published: so a
claim never meets the relay's lock, and a message that is lost is only a bell that is rung again.
"""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Final

import psycopg
import structlog

from shared import kill_points
from shared.contracts.kind import QUEUES
from shared.database.connections import connect_hot
from shared.database.schema_version import wait_for_schema
from shared.log_setup import set_up_logs
from shared.outage_log import OutageLog
from shared.queries import hot_tasks
from shared.queries import relay as queries
from shared.queries.signs_of_life import IS_SILENT, SHOW_SIGN_OF_LIFE
from shared.settings import Settings
from shared.tasks.wakeup_channel import WAKEUP_CHANNEL, write_ids
from workers.celery_app import make_celery_app
from workers.relay.doorbell import BROKER_ERRORS, Doorbell

log = structlog.get_logger()

SWEEPER_LOCK: Final = 7_305_114_400_002
"""The advisory lock of whoever does the chores."""
IDLE_SECONDS: Final = 1.0
"""How long to sleep without a NOTIFY: one may be missed."""
GATHER_SECONDS: Final = 0.015
"""A pause under load, in which the next tasks gather: what is rung together is claimed and finished together, which
costs half of what each by itself does (`docs/performance.md`). Nobody waits for it on a system at rest."""
GATHER_FROM: Final = 5
"""How many tasks released at once count as load: with the pause, from some 300 tasks a second on."""
WINDOW_FULL_SECONDS: Final = 0.01
CHORE_SECONDS: Final = 0.5
RETRY_SECONDS: Final = 1.0
SIGN_SECONDS: Final = 2.0
CHORE_LIMIT: Final = 1000
BROKER_AWAY_SECONDS: Final = 2.0
"""How long chores are done without a broker that did not answer."""
Connection = psycopg.Connection[tuple[Any, ...]]


class Relay:
    """One relay: a loop that releases, and a thread that does the chores."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._doorbell = Doorbell(settings, make_celery_app(settings))
        self._last_owner: dict[str, str] = {}
        """By queue, whose turn it was last."""
        self._bell_failed = False
        self._was_cut_off = False
        """Whether the connection of the chores was lost, or could not be made, since they were done last."""
        self._broker_away_until = 0.0
        self._database_outage = OutageLog("database")
        self._broker_outage = OutageLog("broker")
        self._stopping = threading.Event()

    def run(self) -> None:
        """Release and do chores until `stop`. A database or broker that is away is waited for."""
        chores = threading.Thread(target=self._keep_doing, args=(self._do_chores,), name="chores", daemon=True)
        chores.start()
        self._keep_doing(self._release)
        chores.join(timeout=5)
        self._doorbell.close()

    def stop(self) -> None:
        """Make `run` return soon."""
        self._stopping.set()

    def _keep_doing(self, work: Callable[[], None]) -> None:
        while not self._stopping.is_set():
            try:
                work()
            except psycopg.Error as error:
                self._database_outage.warn(error)
            except Exception:
                log.exception("relay_loop_failed")
            self._stopping.wait(RETRY_SECONDS)

    def _release(self) -> None:
        """Ring what is due, as it falls due; raises when the database is away."""
        with self._connection("relay", durable=False) as work, self._connection("relay-listen") as ear:
            ear.execute(hot_tasks.LISTEN)
            next_sign = 0.0
            named: set[str] = set()
            while not self._stopping.is_set():
                if time.monotonic() >= next_sign:
                    work.execute(SHOW_SIGN_OF_LIFE, {"part": "relay"})
                    next_sign = time.monotonic() + SIGN_SECONDS
                due = [queue for queue in QUEUES if queue in named] or _list_due(work)
                released = sum(self._release_queue(work, queue) for queue in due)
                if released >= GATHER_FROM:
                    time.sleep(GATHER_SECONDS)
                elif due and not released and not named:
                    # The window is full: claims make room, and nobody notifies of those.
                    time.sleep(WINDOW_FULL_SECONDS)
                # After a release all queues are looked at, so what was said meanwhile need not be kept; but it must be heard,
                # for Postgres keeps it for whoever listens, and refuses commits when it can keep no more.
                heard = _hear(ear, 0.0 if due else IDLE_SECONDS)
                named = set() if due else heard

    def _release_queue(self, connection: Connection, queue: str) -> int:
        if self._bell_failed and not self._broker_answers(queue):
            return 0
        after = self._last_owner.get(queue)
        parameters = {"queue": queue, "window": self._settings.window, "after": after}
        rows = connection.execute(hot_tasks.RELEASE, parameters).fetchall()
        if not rows:
            return 0
        kill_points.reach("relay-after-mark")
        rows.sort(key=lambda row: (row[2], after is not None and row[3] <= after, row[3]))
        self._last_owner[queue] = rows[-1][3]
        try:
            self._doorbell.ring(queue, [(row[0], row[1]) for row in rows])
        except BROKER_ERRORS as error:
            self._broker_outage.warn(error)
            self._bell_failed = True
            connection.execute(queries.UNRING, {"ids": [row[0] for row in rows]})
            self._stopping.wait(RETRY_SECONDS)
            return 0
        kill_points.reach("relay-after-publish")
        return len(rows)

    def _broker_answers(self, queue: str) -> bool:
        """Ask after a failure, before rows are marked again: to mark and unmark a window each second wears out the table."""
        try:
            self._doorbell.ping()
        except BROKER_ERRORS as error:
            self._broker_outage.warn(error)
            self._stopping.wait(RETRY_SECONDS)
            return False
        self._bell_failed = False
        self._broker_outage.end()
        return True

    def _do_chores(self) -> None:
        """Hold the lock, or wait for it; then sweep, promote, expire and ring again, until the connection is lost.

        One who holds the lock may be frozen. So whoever waits for it does the chores too when nobody has for a lease:
        two who do them at once do no harm, for each takes rows that the other has not locked.
        """
        try:
            self._do_chores_while_connected()
        except psycopg.Error:
            self._was_cut_off = True
            raise

    def _do_chores_while_connected(self) -> None:
        holds_lock, next_sign = False, 0.0
        patience = {"part": "sweeper", "seconds": max(self._settings.lease_seconds, 2 * SIGN_SECONDS)}
        with self._connection("relay-chores") as connection:
            # After an outage, leases are over that nobody could renew: their holders try each half second, or are within
            # the wait for a connection, and come first. What is really lost is taken back within three leases all the same.
            lease_seconds = self._settings.lease_seconds
            patience_seconds = min(lease_seconds, lease_seconds / 3 + 1) if self._was_cut_off else 0.0
            sweep_from = time.monotonic() + patience_seconds
            while not self._stopping.is_set():
                holds_lock = holds_lock or self._take_lock(connection)
                if holds_lock or connection.execute(IS_SILENT, patience).fetchone():
                    if time.monotonic() >= next_sign:
                        connection.execute(SHOW_SIGN_OF_LIFE, {"part": "sweeper"})
                        next_sign = time.monotonic() + SIGN_SECONDS
                    self._do_chores_once(connection, sweep=time.monotonic() >= sweep_from)
                self._stopping.wait(CHORE_SECONDS)

    def _take_lock(self, connection: Connection) -> bool:
        row = connection.execute(queries.TRY_LOCK, {"key": SWEEPER_LOCK}).fetchone()
        return bool(row and row[0])

    def _do_chores_once(self, connection: Connection, *, sweep: bool = True) -> None:
        limit = {"limit": CHORE_LIMIT}
        swept = connection.execute(queries.SWEEP, limit).fetchall() if sweep else []
        for task_id, status in swept:
            log.warning("lease_lost", task_id=str(task_id), status=status)
        expired = connection.execute(queries.EXPIRE, limit).fetchall()
        connection.execute(queries.PROMOTE, limit)
        if time.monotonic() < self._broker_away_until:
            return
        changed = [row[0] for row in swept + expired]
        try:
            if changed:
                self._doorbell.publish(WAKEUP_CHANNEL, write_ids(changed))
            self._ring_again(connection)
            self._broker_outage.end()
        except BROKER_ERRORS as error:
            # Leases are lost and tasks fall due without a broker too: the chores must not wait for it each time.
            self._broker_away_until = time.monotonic() + BROKER_AWAY_SECONDS
            self._broker_outage.warn(error)

    def _ring_again(self, connection: Connection) -> None:
        """Let be published again what the broker lost, and what was rung long ago and nobody claimed.

        A broker that holds a whole window is given no more, or the same bells would pile up in it.
        """
        settings = self._settings
        forgotten = self._doorbell.has_forgotten()
        for queue in QUEUES:
            seconds, oldest = 0.0, None
            if not forgotten:
                if self._doorbell.depth(queue) >= settings.window:
                    continue
                seconds, oldest = settings.rering_seconds, self._doorbell.find_oldest(queue)
            parameters = {"queue": queue, "seconds": seconds, "oldest": oldest, "limit": settings.window}
            rung_again = connection.execute(queries.RERING, parameters).fetchall()
            if rung_again:
                log.info("rung_again", queue=queue, tasks=len(rung_again), broker_forgot=forgotten)
        if forgotten:
            self._doorbell.remember()

    @contextlib.contextmanager
    def _connection(self, name: str, *, durable: bool = True) -> Iterator[Connection]:
        with connect_hot(self._settings, name, durable=durable) as connection:
            self._database_outage.end()
            yield connection


def _hear(connection: Connection, seconds: float) -> set[str]:
    """Give the queues that are named by what was said, waiting for so long at most."""
    named: set[str] = set()
    for notice in connection.notifies(timeout=seconds, stop_after=1):
        named.update(notice.payload.split(","))
    return named


def _list_due(connection: Connection) -> list[str]:
    return [row[0] for row in connection.execute(hot_tasks.LIST_DUE_QUEUES, {"queues": list(QUEUES)}).fetchall()]


def run_relay(settings: Settings) -> None:
    """Run a relay until SIGTERM or SIGINT."""
    set_up_logs(settings, "relay")
    wait_for_schema(settings)
    relay = Relay(settings)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: relay.stop())
    log.info("relay_started")
    relay.run()
    log.info("relay_stopped")
