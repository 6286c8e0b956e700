"""The relay: publishes tasks as they become due, and does the chores (`workers/relay/chores.py`). Nothing else publishes.

Any number of relays may run: a statement that marks tasks as published is exact, whatever other relays do
(`shared/queries/publishing.py`). A task is marked, and that is committed, before its message is sent: so a claim never waits
for the relay's lock, and if the relay dies in between, the task is published again.
"""

from __future__ import annotations

import random
import signal
import threading
import time
from collections.abc import Callable
from typing import Any, Final, NamedTuple

import psycopg
import structlog

from shared import kill_points
from shared.contracts.kind import QUEUES
from shared.database.connections import connect_hot
from shared.database.schema_version import wait_for_schema
from shared.log_setup import set_up_logs
from shared.outage_log import OutageLog
from shared.queries.key_limits import UNBLOCK
from shared.queries.publishing import (
    ARE_LIMITS_USED,
    LIST_DUE_QUEUES,
    LISTEN,
    MARK_PUBLISHED,
    MARK_WITHIN_LIMITS,
    UNMARK,
)
from shared.queries.signs_of_life import SHOW_SIGN_OF_LIFE
from shared.settings import Settings
from workers.celery_app import make_celery_app
from workers.relay.chores import RELAY_SIGN_SECONDS, Chores
from workers.relay.doorbell import BROKER_ERRORS, Doorbell

log = structlog.get_logger()

NOTICE_WAIT_SECONDS: Final = 1.0
"""How long to wait for a notice before due tasks are looked for: a notice may be missed."""
GATHER_SECONDS: Final = 0.015
"""A pause under load, after which more tasks are due: tasks that are published together are claimed and finished together,
which costs half as much for each (`docs/performance.md`). A system at rest never pauses."""
GATHER_FROM: Final = 5
"""How many tasks published at once count as load: with the pause, from some 300 tasks a second on."""
WINDOW_FULL_SECONDS: Final = 0.01
UNBLOCK_SECONDS: Final = 0.05
UNBLOCK_IDLE_SECONDS: Final = 0.5
"""How long to wait before blocked tasks are looked for again: while there are any, and while there are none."""
UNBLOCK_SHARE: Final = 9
"""At most a tenth of the time is spent on that, since what a tenth takes is waited for nine times."""
OUTAGE_PAUSE_SECONDS: Final = 1.0
Connection = psycopg.Connection[tuple[Any, ...]]


class PublishedTask(NamedTuple):
    """A row of `MARK_PUBLISHED` or `MARK_WITHIN_LIMITS`."""

    id: str
    kind: str
    turn: float
    is_published: bool
    """Whether it is published now; else a limit of its key has no room, and it is blocked."""


class Publisher:
    """Publishes the due tasks of a queue."""

    def __init__(self, settings: Settings, doorbell: Doorbell, stopping: threading.Event) -> None:
        self._settings = settings
        self._doorbell = doorbell
        self._stopping = stopping
        self._broker_failed = False
        self._unblock_at = 0.0

    def unblock(self, connection: Connection) -> None:
        """Make those blocked tasks due again for which their keys have room."""
        started = time.monotonic()
        row = connection.execute(UNBLOCK).fetchone()
        assert row is not None
        groups, _ = row
        ended = time.monotonic()
        # While tasks are blocked, most rooms are noticed; that of a rate, and that of a lost notice, are not.
        pause = max(UNBLOCK_SECONDS, UNBLOCK_SHARE * (ended - started)) if groups else UNBLOCK_IDLE_SECONDS
        self._unblock_at = ended + pause

    def unblock_if_due(self, connection: Connection) -> None:
        """Do `unblock` if that is due: often while tasks are blocked, else twice a second."""
        if time.monotonic() >= self._unblock_at:
            self.unblock(connection)

    def seconds_until_unblock(self) -> float:
        """Return how long to wait for a notice at most."""
        return max(0.0, self._unblock_at - time.monotonic())

    def publish_due(self, connection: Connection, queue: str) -> int:
        """Publish as many due tasks of a queue as the window has room for, in order of their turns.

        Returns how many were published or blocked.
        """
        if self._broker_failed and not self._broker_answers():
            return 0
        marked = mark_published(connection, queue, self._settings.window)
        if not marked:
            return 0
        tasks = sorted((task for task in marked if task.is_published), key=lambda task: (task.turn, task.id))
        if not tasks:
            self._unblock_at = min(self._unblock_at, time.monotonic() + UNBLOCK_SECONDS)
            return len(marked)
        kill_points.reach("relay-after-mark")
        try:
            self._doorbell.publish(queue, [(task.id, task.kind) for task in tasks])
        except BROKER_ERRORS as error:
            self._doorbell.outage.warn(error)
            self._broker_failed = True
            connection.execute(UNMARK, {"ids": [task.id for task in tasks]})
            self._stopping.wait(OUTAGE_PAUSE_SECONDS)
            return 0
        kill_points.reach("relay-after-publish")
        return len(marked)

    def _broker_answers(self) -> bool:
        """Return whether the broker answers. Called before tasks are marked again: repeated marks would bloat the table."""
        try:
            self._doorbell.ping()
        except BROKER_ERRORS as error:
            self._doorbell.outage.warn(error)
            self._stopping.wait(OUTAGE_PAUSE_SECONDS)
            return False
        self._broker_failed = False
        self._doorbell.outage.end()
        return True


class Relay:
    """One relay: a loop that publishes, and a thread that does the chores."""

    def __init__(self, settings: Settings, doorbell: Doorbell) -> None:
        self._settings = settings
        self._stopping = threading.Event()
        self._publisher = Publisher(settings, doorbell, self._stopping)
        self._chores = Chores(settings, doorbell, self._stopping)
        self._database_outage = OutageLog("database")

    def run(self) -> None:
        """Publish and do the chores until `stop`. A database or broker that is away is waited for."""
        chores = threading.Thread(target=self._keep_doing, args=(self._chores.run,), name="chores", daemon=True)
        chores.start()
        self._keep_doing(self._publish)
        chores.join(timeout=5)

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
            self._stopping.wait(OUTAGE_PAUSE_SECONDS)

    def _publish(self) -> None:
        """Publish tasks as they become due. Raises `psycopg.Error` when the database is away."""
        with (
            connect_hot(self._settings, "relay", durable=False) as work,
            connect_hot(self._settings, "relay-listen") as listening,
        ):
            self._database_outage.end()
            listening.execute(LISTEN)
            next_sign = 0.0
            named: set[str] = set()
            while not self._stopping.is_set():
                if time.monotonic() >= next_sign:
                    work.execute(SHOW_SIGN_OF_LIFE, {"part": "relay"})
                    next_sign = time.monotonic() + RELAY_SIGN_SECONDS
                if "" in named:
                    self._publisher.unblock(work)
                else:
                    self._publisher.unblock_if_due(work)
                due = [queue for queue in QUEUES if queue in named] or list_due_queues(work)
                # The queue that is first publishes the next task of a key that has tasks in several.
                random.shuffle(due)
                published = sum(self._publisher.publish_due(work, queue) for queue in due)
                if published >= GATHER_FROM:
                    time.sleep(GATHER_SECONDS)
                elif due and not published and not named:
                    # The window is full: claims make room, and there is no notice of those.
                    time.sleep(WINDOW_FULL_SECONDS)
                # After publishing, all queues are checked, so the queues of these notices need not be kept. But notices must
                # be received: Postgres keeps them for each listener, and refuses commits when it can keep no more.
                longest = min(NOTICE_WAIT_SECONDS, self._publisher.seconds_until_unblock())
                received = _receive_notices(listening, 0.0 if due else longest)
                named = set() if due else received


def mark_published(connection: Connection, queue: str, window: int) -> list[PublishedTask]:
    """Mark due tasks of a queue as published, within all limits; return those, and those that are blocked instead."""
    parameters = {"queue": queue, "window": window}
    rows = connection.execute(MARK_PUBLISHED, parameters).fetchall()
    if not rows:
        (are_limits_used,) = connection.execute(ARE_LIMITS_USED).fetchone() or (False,)
        if are_limits_used:
            rows = connection.execute(MARK_WITHIN_LIMITS, parameters).fetchall()
    return [PublishedTask._make(row) for row in rows]


def list_due_queues(connection: Connection) -> list[str]:
    """Return the queues that have tasks to publish."""
    rows = connection.execute(LIST_DUE_QUEUES, {"queues": list(QUEUES)}).fetchall()
    return [name for (name,) in rows]


def _receive_notices(connection: Connection, seconds: float) -> set[str]:
    """Return the queues that notices name, waiting for so long at most."""
    named: set[str] = set()
    for notice in connection.notifies(timeout=seconds, stop_after=1):
        named.update(notice.payload.split(","))
    return named


def run_relay(settings: Settings) -> None:
    """Run a relay until SIGTERM or SIGINT."""
    set_up_logs(settings, "relay")
    wait_for_schema(settings)
    doorbell = Doorbell(settings, make_celery_app(settings))
    relay = Relay(settings, doorbell)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: relay.stop())
    log.info("relay_started")
    relay.run()
    doorbell.close()
    log.info("relay_stopped")
