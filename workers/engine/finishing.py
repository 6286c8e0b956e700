"""Ends attempts: what has ended while the last commit ran is committed together, by a thread that does nothing else."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from typing import Any, Final, NamedTuple
from uuid import UUID

import orjson
import psycopg
import redis
import structlog

from shared.database.connections import connect_hot
from shared.outage_log import OutageLog
from shared.queries import hot_tasks
from shared.settings import Settings
from shared.tasks.wakeup_channel import WAKEUP_CHANNEL, encode_task_ids

log = structlog.get_logger()

MAX_TOGETHER: Final = 256
FINISH_RETRY_SECONDS: Final = 0.25
PATIENCE_LEASES: Final = 10
"""For how many leases an end is tried to be written while the database is away. When it is back, the holder of a claim may
renew it before the sweeper looks; an end whose claim was lost all the same changes nothing."""


UNKNOWN: Final = "unknown"
REFUSED: Final = "refused"
OnWritten = Callable[[str | None], None]
"""What to do with the state that the task is in then: None when the claim was lost, `UNKNOWN` when the database was
away for too long to tell, and `REFUSED` when it does not take this end, which changed nothing."""


class Ending(NamedTuple):
    """One attempt's end: what to write, and what to do then."""

    task_id: UUID
    document: bytes
    has_artifacts: bool
    succeeded: bool
    on_written: OnWritten


class Finisher:
    """A thread that writes the ends of attempts durably, and wakes those who wait for the tasks.

    Threads that run attempts never wait for the disk: they hand their ends over and go on.
    """

    def __init__(self, settings: Settings, outage: OutageLog | None = None) -> None:
        self._settings = settings
        self._outage = outage or OutageLog("database")
        self._waiting: queue.SimpleQueue[Ending | None] = queue.SimpleQueue()
        self._connection: psycopg.Connection[tuple[Any, ...]] | None = None
        self._redis = redis.Redis.from_url(settings.broker_url, socket_timeout=0.5, socket_connect_timeout=0.5)
        self._silent_until = 0.0
        self._thread = threading.Thread(target=self._run, name="finisher", daemon=True)

    def start(self) -> None:
        """Start to write."""
        self._thread.start()

    def write_soon(self, document: dict[str, Any], on_written: OnWritten) -> None:
        """Queue an attempt's end to be written with others; the thread that writes calls `on_written`.

        A database that is away is tried again for `PATIENCE_LEASES`; then the task is left to the sweeper. Raises
        `TypeError`, and writes nothing, for a document that is no JSON.
        """
        has_artifacts, succeeded = bool(document.get("artifacts")), document["status"] == "succeeded"
        self._waiting.put(Ending(document["id"], orjson.dumps(document), has_artifacts, succeeded, on_written))

    def write(self, document: dict[str, Any]) -> str | None:
        """Write an attempt's end and wait for it; give the task's state."""
        written = threading.Event()
        states: list[str | None] = []

        def note(state: str | None) -> None:
            states.append(state)
            written.set()

        self.write_soon(document, note)
        written.wait()
        return states[0]

    def publish(self, task_ids: list[UUID]) -> None:
        """Wake those who wait for tasks; does nothing while the broker does not answer."""
        if time.monotonic() < self._silent_until:
            return
        try:
            self._redis.publish(WAKEUP_CHANNEL, encode_task_ids(task_ids))
        except (redis.RedisError, OSError):
            self._silent_until = time.monotonic() + 2.0

    def close(self) -> None:
        """Write what has been handed over, and close the connections."""
        self._waiting.put(None)
        if self._thread.is_alive():
            self._thread.join(timeout=self._settings.lease_seconds)
        self._redis.close()

    def _run(self) -> None:
        closing = False
        while not closing:
            endings, closing = self._gather()
            self._write_together(endings)
        self._disconnect()

    def _gather(self) -> tuple[list[Ending], bool]:
        """Wait for an end; give it with those that came since the last time, and whether no more will come."""
        endings: list[Ending] = []
        ending = self._waiting.get()
        while ending is not None:
            endings.append(ending)
            if len(endings) == MAX_TOGETHER:
                break
            try:
                ending = self._waiting.get_nowait()
            except queue.Empty:
                break
        return endings, ending is None

    def _write_together(self, endings: list[Ending]) -> None:
        if not endings:
            return
        # Rows are taken in the order of their ids by everyone, so that no two writers wait for each other.
        endings.sort(key=lambda ending: ending.task_id)
        statuses: dict[UUID, str | None] = {}
        try:
            statuses = self._write(endings)
            if written := [task_id for task_id, status in statuses.items() if status not in {None, REFUSED}]:
                self.publish(written)
        except Exception:
            # Whatever it is, each is told: a lease that is renewed for an end that nobody writes would never be lost.
            log.exception("finish_failed_unexpectedly", tasks=len(endings))
        for ending in endings:
            try:
                ending.on_written(statuses.get(ending.task_id, UNKNOWN))
            except Exception:
                log.exception("finish_callback_failed", task_id=str(ending.task_id))

    def _write(self, endings: list[Ending]) -> dict[UUID, str | None]:
        """Return the state of each task, as far as it is known."""
        deadline = time.monotonic() + PATIENCE_LEASES * self._settings.lease_seconds
        while True:
            try:
                statuses = self._execute(endings)
                self._outage.end()
                return statuses
            except (psycopg.OperationalError, psycopg.InterfaceError) as error:
                self._outage.warn(error)
                self._disconnect()
                if time.monotonic() > deadline:
                    return {}
                time.sleep(FINISH_RETRY_SECONDS)
            except psycopg.Error as error:
                # One end that cannot be written must not take the others with it.
                if len(endings) > 1:
                    return {task_id: status for ending in endings for task_id, status in self._write([ending]).items()}
                log.error("finish_refused", task_id=str(endings[0].task_id), error=type(error).__name__)
                return {endings[0].task_id: REFUSED}

    def _execute(self, endings: list[Ending]) -> dict[UUID, str | None]:
        if self._connection is None or self._connection.closed:
            self._connection = connect_hot(self._settings, "worker-finish")
        statement = hot_tasks.FINISH
        if not all(ending.succeeded for ending in endings):
            statement = hot_tasks.FINISH_ANY
        elif any(ending.has_artifacts for ending in endings):
            statement = hot_tasks.FINISH_WITH_ARTIFACTS
        document = (b"[" + b",".join(ending.document for ending in endings) + b"]").decode()
        statuses: dict[UUID, str | None] = {ending.task_id: None for ending in endings}
        statuses.update(self._connection.execute(statement, {"document": document}).fetchall())
        return statuses

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
