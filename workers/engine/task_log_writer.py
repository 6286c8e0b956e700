"""Writes the lines that handlers log for the owners of their tasks, as events of the tasks.

A line is written soon after it was logged; lines that come faster than every `WRITE_PAUSE_SECONDS` are written together. The
limits hold for a task with all of its attempts.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple
from uuid import UUID

import orjson
import psycopg
import structlog

from shared.queries import hot_tasks
from shared.queries.events import COUNT_LOG
from workers.engine.attempt import Attempt
from workers.outcomes import Cancelled, ClaimLost

WRITE_PAUSE_SECONDS: Final = 0.1
MAX_LINES: Final = 1000
MAX_BYTES: Final = 256 << 10
FULL: Final = (
    f"The log is full: a task may have {MAX_LINES:,} lines and {MAX_BYTES >> 10} KiB. Later lines are not kept."
)
log = structlog.get_logger()


class _Line(NamedTuple):
    at: float
    """When it was logged, by the monotonic clock."""
    data: bytes


class _StoredLog(NamedTuple):
    """A row of `COUNT_LOG`."""

    lines: int
    bytes: int
    is_full: bool


@dataclass(eq=False)
class TaskLog:
    """The lines of one attempt that are not written yet, and how much the task's log has."""

    attempt: Attempt
    waiting: list[_Line] = field(default_factory=list)
    added_lines: int = 0
    added_bytes: int = 0
    written_lines: int | None = None
    """How many lines the task has, those of earlier attempts included; None until that was read."""
    written_bytes: int = 0
    is_full: bool = False


class TaskLogWriter:
    """Writes the logs of the tasks of a worker process; not durably, as their progress."""

    def __init__(
        self, connect: Callable[[], psycopg.Connection[tuple[Any, ...]]], wake_waiters: Callable[[list[UUID]], None]
    ) -> None:
        self._connect = connect
        self._wake_waiters = wake_waiters
        self._connection: psycopg.Connection[tuple[Any, ...]] | None = None
        self._writing = threading.Lock()
        self._adding = threading.Lock()
        self._waiting: set[TaskLog] = set()
        self._has_lines = threading.Event()
        self._thread: threading.Thread | None = None
        self._is_closed = False

    def add(self, task_log: TaskLog, level: str, text: str, fields: dict[str, Any]) -> None:
        """Write a line soon, without waiting for the database. Raises `TypeError` for a field that is not JSON."""
        data = orjson.dumps(_without_nul({"level": level, "text": text, "fields": fields}), default=str)
        with self._adding:
            # One line beyond the limits is kept, so that the log says that it is full.
            if task_log.added_lines > MAX_LINES or task_log.added_bytes > MAX_BYTES:
                return
            task_log.added_lines += 1
            task_log.added_bytes += len(data)
            task_log.waiting.append(_Line(time.monotonic(), data))
            self._waiting.add(task_log)
            if self._thread is None:
                self._thread = threading.Thread(target=self._write_soon, name="task-log", daemon=True)
                self._thread.start()
        self._has_lines.set()

    def flush(self, task_log: TaskLog) -> None:
        """Write the waiting lines of an attempt now. While the database is away, they go on waiting."""
        if not task_log.added_lines:
            return
        # The lock is also waited for if no line waits: some may be being written.
        with self._writing:
            with self._adding:
                lines, task_log.waiting = task_log.waiting, []
                self._waiting.discard(task_log)
            if not lines:
                return
            try:
                self._write(task_log, lines)
            except psycopg.OperationalError:
                if self._connection is not None:
                    self._connection.close()
                with self._adding:
                    task_log.waiting[:0] = lines
                    self._waiting.add(task_log)
            except psycopg.Error as error:
                log.error("task_log_refused", task_id=task_log.attempt.task_id, error=type(error).__name__)

    def finish(self, task_log: TaskLog) -> None:
        """Write the waiting lines of an attempt that ends. If the database is away, they are lost."""
        self.flush(task_log)
        with self._adding:
            lost, task_log.waiting = task_log.waiting, []
            self._waiting.discard(task_log)
        if lost:
            log.warning("task_log_lost", task_id=task_log.attempt.task_id, lines=len(lost))

    def close(self) -> None:
        """Stop writing, and close the connection."""
        self._is_closed = True
        self._has_lines.set()
        with self._writing:
            if self._connection is not None:
                self._connection.close()

    def _write_soon(self) -> None:
        while True:
            self._has_lines.wait()
            self._has_lines.clear()
            if self._is_closed:
                return
            with self._adding:
                waiting = list(self._waiting)
            for task_log in waiting:
                self.flush(task_log)
            time.sleep(WRITE_PAUSE_SECONDS)
            if self._waiting:
                self._has_lines.set()

    def _write(self, task_log: TaskLog, lines: list[_Line]) -> None:
        if self._connection is None or self._connection.closed:
            self._connection = self._connect()
        task = task_log.attempt.task
        if task_log.written_lines is None:
            row = self._connection.execute(COUNT_LOG, {"id": task.id}).fetchone()
            assert row is not None
            stored = _StoredLog._make(row)
            task_log.written_lines, task_log.written_bytes = stored.lines, stored.bytes
            task_log.is_full = stored.is_full
        kept = _keep_within_limits(task_log, lines)
        if not kept:
            return
        now = time.monotonic()
        document = [
            {"position": position, "age": now - line.at, "data": orjson.Fragment(line.data)}
            for position, line in enumerate(kept, 1)
        ]
        parameters = {
            "id": task.id,
            "claim": task.claim,
            "count": len(kept),
            "document": orjson.dumps(document).decode(),
        }
        row = self._connection.execute(hot_tasks.WRITE_LOG, parameters).fetchone()
        if row is None:
            task_log.attempt.stop(ClaimLost())
            return
        self._wake_waiters([task.id])
        (is_cancel_requested,) = row
        if is_cancel_requested:
            task_log.attempt.stop(Cancelled())


def _keep_within_limits(task_log: TaskLog, lines: list[_Line]) -> list[_Line]:
    """Return the lines for which the task's log has room, and at its end one that says that it is full."""
    kept: list[_Line] = []
    for line in lines:
        if task_log.is_full:
            break
        assert task_log.written_lines is not None
        if task_log.written_lines + 1 > MAX_LINES or task_log.written_bytes + len(line.data) > MAX_BYTES:
            task_log.is_full = True
            notice = {"level": "warning", "text": FULL, "fields": {}, "is_full": True}
            kept.append(_Line(line.at, orjson.dumps(notice)))
        else:
            task_log.written_lines += 1
            task_log.written_bytes += len(line.data)
            kept.append(line)
    return kept


def _without_nul(value: Any) -> Any:
    """Return a JSON value that Postgres can store: without U+0000 and without halves of surrogate pairs."""
    if isinstance(value, str):
        return value.replace("\x00", "\ufffd").encode("utf-8", "replace").decode()
    if isinstance(value, dict):
        return {_without_nul(str(key)): _without_nul(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nul(item) for item in value]
    return value
