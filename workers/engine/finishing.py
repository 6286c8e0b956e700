"""Finishes attempts: those that end while a commit runs are committed together by the next one, in a thread of their own."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
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
FINISH_RETRY_LEASES: Final = 10
"""For how many leases a finish is tried again while the database is away. When it is back, the holder of a claim may renew it
before the sweeper checks; a finish whose claim was lost all the same changes nothing."""

UNKNOWN: Final = "unknown"
REFUSED: Final = "refused"
OnWritten = Callable[[str | None], None]
"""Called with the status of the task after the finish: None if the claim was lost, `UNKNOWN` if the database was away for too
long to know, and `REFUSED` if the database refused this finish, which changed nothing."""


class Finish(NamedTuple):
    """How one attempt ends: what to write, and what to call then."""

    task_id: UUID
    document: bytes
    has_artifacts: bool
    succeeded: bool
    on_written: OnWritten


class FinishWriter:
    """Writes finishes on a connection of its own. Only one thread may use it."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._connection: psycopg.Connection[tuple[Any, ...]] | None = None

    def write(self, finishes: Sequence[Finish]) -> dict[UUID, str | None]:
        """Write finishes by one statement; return the status of each task, or None for those whose claim was lost.

        Raises `psycopg.Error`. Call `close` then: the next call connects again.
        """
        if self._connection is None or self._connection.closed:
            self._connection = connect_hot(self._settings, "worker-finish")
        statement = hot_tasks.FINISH
        if not all(finish.succeeded for finish in finishes):
            statement = hot_tasks.FINISH_ANY
        elif any(finish.has_artifacts for finish in finishes):
            statement = hot_tasks.FINISH_WITH_ARTIFACTS
        document = (b"[" + b",".join(finish.document for finish in finishes) + b"]").decode()
        statuses: dict[UUID, str | None] = {finish.task_id: None for finish in finishes}
        statuses.update(self._connection.execute(statement, {"document": document}).fetchall())
        return statuses

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None


class Finisher:
    """A thread that writes finishes durably, and wakes the requests that wait for the tasks.

    Threads that run attempts never wait for the disk: they queue their finishes and go on.
    """

    def __init__(self, settings: Settings, outage: OutageLog | None = None, writer: FinishWriter | None = None) -> None:
        self._settings = settings
        self._outage = outage or OutageLog("database")
        self._writer = writer or FinishWriter(settings)
        self._waiting: queue.SimpleQueue[Finish | None] = queue.SimpleQueue()
        self._redis = redis.Redis.from_url(settings.broker_url, socket_timeout=0.5, socket_connect_timeout=0.5)
        self._silent_until = 0.0
        self._thread = threading.Thread(target=self._run, name="finisher", daemon=True)

    def start(self) -> None:
        """Start to write."""
        self._thread.start()

    def write_soon(self, document: dict[str, Any], on_written: OnWritten) -> None:
        """Queue a finish to be written together with others. The finisher's thread calls `on_written`.

        While the database is away, the finish is tried again for `FINISH_RETRY_LEASES`; then the task is left to the sweeper.
        Raises `TypeError`, and writes nothing, for a document that cannot be encoded as JSON.
        """
        has_artifacts, succeeded = bool(document.get("artifacts")), document["status"] == "succeeded"
        self._waiting.put(Finish(document["id"], orjson.dumps(document), has_artifacts, succeeded, on_written))

    def write(self, document: dict[str, Any]) -> str | None:
        """Write a finish, wait until it is written, and return the status that `OnWritten` describes."""
        written = threading.Event()
        states: list[str | None] = []

        def note(state: str | None) -> None:
            states.append(state)
            written.set()

        self.write_soon(document, note)
        written.wait()
        return states[0]

    def wake_waiters(self, task_ids: list[UUID]) -> None:
        """Publish a wake-up for the requests that wait for one of these tasks. Skipped while the broker does not answer."""
        if time.monotonic() < self._silent_until:
            return
        try:
            self._redis.publish(WAKEUP_CHANNEL, encode_task_ids(task_ids))
        except (redis.RedisError, OSError):
            self._silent_until = time.monotonic() + 2.0

    def close(self) -> None:
        """Write the queued finishes, and close the connections."""
        self._waiting.put(None)
        if self._thread.is_alive():
            self._thread.join(timeout=self._settings.lease_seconds)
        self._redis.close()

    def _run(self) -> None:
        closing = False
        while not closing:
            finishes, closing = self._gather()
            self._write_together(finishes)
        self._writer.close()

    def _gather(self) -> tuple[list[Finish], bool]:
        """Wait for a finish, and return it with the others that are queued, and whether `close` was called."""
        finishes: list[Finish] = []
        finish = self._waiting.get()
        while finish is not None:
            finishes.append(finish)
            if len(finishes) == MAX_TOGETHER:
                break
            try:
                finish = self._waiting.get_nowait()
            except queue.Empty:
                break
        return finishes, finish is None

    def _write_together(self, finishes: list[Finish]) -> None:
        if not finishes:
            return
        # All statements lock rows in the order of their ids, so that no two writers wait for each other.
        finishes.sort(key=lambda finish: finish.task_id)
        statuses: dict[UUID, str | None] = {}
        try:
            statuses = self._write(finishes)
            if written := [task_id for task_id, status in statuses.items() if status not in {None, REFUSED}]:
                self.wake_waiters(written)
        except Exception:
            # Each callback is called all the same: otherwise the lease would be renewed for ever, and never swept.
            log.exception("finish_failed_unexpectedly", tasks=len(finishes))
        for finish in finishes:
            try:
                finish.on_written(statuses.get(finish.task_id, UNKNOWN))
            except Exception:
                log.exception("finish_callback_failed", task_id=str(finish.task_id))

    def _write(self, finishes: list[Finish]) -> dict[UUID, str | None]:
        """Return the status of each task, as far as it is known."""
        deadline = time.monotonic() + FINISH_RETRY_LEASES * self._settings.lease_seconds
        while True:
            try:
                statuses = self._writer.write(finishes)
                self._outage.end()
                return statuses
            except (psycopg.OperationalError, psycopg.InterfaceError) as error:
                self._outage.warn(error)
                self._writer.close()
                if time.monotonic() > deadline:
                    return {}
                time.sleep(FINISH_RETRY_SECONDS)
            except psycopg.Error as error:
                # One finish that the database refuses must not affect the others.
                if len(finishes) > 1:
                    return {task_id: status for finish in finishes for task_id, status in self._write([finish]).items()}
                log.error("finish_refused", task_id=str(finishes[0].task_id), error=type(error).__name__)
                return {finishes[0].task_id: REFUSED}
