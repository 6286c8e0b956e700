"""The real form of `HandlerContext`: files from the object store, progress and effects written by the attempt's claim."""

from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final, NoReturn
from uuid import UUID

import structlog
from sqlalchemy import Connection, Engine

from shared.errors import ObjectMissing
from shared.identifiers import new_id
from shared.limits import HeldLimits
from shared.media_types import safe_file_name
from shared.queries import hot_tasks
from shared.queries.files import find_file
from shared.queries.limits import LIST_EFFECTIVE_LIMITS
from shared.settings import Settings
from shared.storage.object_store import COPY_BYTES, ObjectStore, new_object_key
from workers.engine.attempt import Attempt
from workers.engine.progress_writer import ProgressWriter
from workers.engine.task_log_writer import TaskLog, TaskLogWriter
from workers.handler_context import InputFile, LogLevel
from workers.outcomes import Cancelled, ClaimLost, Failed, Requeued
from workers.sandbox.limited_child import DEFAULT_FILE_BYTES, ChildLimits, run_limited_child

log = structlog.get_logger()

PROGRESS_PAUSE_SECONDS: Final = 0.5
"""At most one progress is written in so long, but the first and the last of each step are."""
MAX_PROGRESS_MESSAGE_CHARACTERS: Final = 200


@dataclass(frozen=True)
class StoredArtifact:
    """A file that the attempt has put into the object store; nobody can reach it before the attempt succeeds."""

    file_id: UUID
    name: str
    media_type: str
    size: int
    sha256: str
    storage_key: str

    def document(self, position: int) -> dict[str, Any]:
        """Return what `hot_tasks.FINISH_WITH_ARTIFACTS` needs."""
        return {**self.__dict__, "position": position}


@dataclass(frozen=True)
class WorkerParts:
    """What all attempts of a worker process share."""

    settings: Settings
    engine: Engine
    store: ObjectStore
    progress: ProgressWriter
    task_log: TaskLogWriter


class AttemptContext:
    """One attempt as its handler uses it; the methods are described in `HandlerContext`."""

    def __init__(self, parts: WorkerParts, attempt: Attempt, root: Path) -> None:
        """Create a context whose files are in a folder of its own in `root`."""
        self.task_id = attempt.task.id
        self.attempt = attempt.task.attempt
        self.max_attempts = attempt.task.max_attempts
        self.settings = parts.settings
        self.store = parts.store
        self.log = log
        self._root = root
        self.artifacts: list[StoredArtifact] = []
        self._parts = parts
        self._attempt = attempt
        self._task_log = TaskLog(attempt)
        self._progress_due = 0.0
        self._last_progress: tuple[int, str | None] | None = None
        self._input_paths: set[Path] = set()

    @cached_property
    def _folder(self) -> Path:
        return self._root / f"{self._attempt.task_id}-{self._attempt.task.claim:x}"

    @cached_property
    def scratch(self) -> Path:
        """See `HandlerContext`."""
        return self._folder / "scratch"

    def make_folders(self) -> None:
        """Create the folder of the attempt and its scratch folder, which only this user can enter."""
        self._folder.mkdir(mode=0o700, parents=True)
        self.scratch.mkdir(mode=0o700)

    def remove_folders(self) -> None:
        """Delete the folder of the attempt with its content."""
        shutil.rmtree(self._folder, ignore_errors=True)

    @property
    def engine(self) -> Engine:
        """See `HandlerContext`."""
        return self._parts.engine

    def held_limits(self) -> HeldLimits:
        """See `HandlerContext`."""
        task = self._attempt.task
        parameters = {"organization_id": task.organization_id, "caller_id": task.owner_id}
        with self._parts.engine.connect() as connection:
            return HeldLimits.of_rows(connection.exec_driver_sql(LIST_EFFECTIVE_LIMITS, parameters).all())

    def input_file(self, file_id: UUID) -> InputFile:
        """See `HandlerContext`."""
        self.check()
        with self._parts.engine.connect() as connection:
            row = connection.execute(find_file(file_id, self._attempt.task.organization_id)).one_or_none()
        if row is None:
            raise _input_gone()
        try:
            path = self._parts.store.local_path(row.storage_key)
            if path is None:
                path = self._folder / "inputs" / str(file_id)
                if not path.exists():
                    path.parent.mkdir(exist_ok=True)
                    self._parts.store.fetch(row.storage_key, path)
        except ObjectMissing:
            raise _input_gone() from None
        self._input_paths.add(path)
        return InputFile(row.id, path, row.name, row.media_type, row.size, row.sha256.hex())

    def progress(self, percent: int, message: str | None = None) -> None:
        """See `HandlerContext`."""
        self.check()
        now = time.monotonic()
        current = (max(0, min(100, percent)), None if message is None else message[:MAX_PROGRESS_MESSAGE_CHARACTERS])
        if current == self._last_progress or (now < self._progress_due and current[0] < 100):
            return
        self._progress_due = now + PROGRESS_PAUSE_SECONDS
        self._last_progress = current
        self._parts.task_log.flush(self._task_log)
        if self._parts.progress.write(self.task_id, self._attempt.task.claim, *current):
            self._attempt.stop(Cancelled())
            self.check()

    def write_log(self, level: LogLevel, text: str, **fields: Any) -> None:
        """See `HandlerContext`."""
        self.check()
        self._parts.task_log.add(self._task_log, level, text, fields)

    def finish_log(self) -> None:
        """Write the log lines that are not written yet, because the attempt ends."""
        self._parts.task_log.finish(self._task_log)

    def add_artifact(self, path: Path, name: str, media_type: str) -> None:
        """See `HandlerContext`."""
        self.check()
        digest, size = hashlib.sha256(), 0
        with path.open("rb") as file:
            while chunk := file.read(COPY_BYTES):
                digest.update(chunk)
                size += len(chunk)
        key = new_object_key()
        # Noted first, so that an upload that fails half-way is deleted with the others.
        self.artifacts.append(StoredArtifact(new_id(), safe_file_name(name), media_type, size, digest.hexdigest(), key))
        self._parts.store.put_file(key, path)
        self.check()

    def wake(self, task_ids: Sequence[UUID]) -> None:
        """See `HandlerContext`."""
        if task_ids:
            self._parts.progress.wake_waiters(list(task_ids))

    def check(self) -> None:
        """See `HandlerContext`."""
        self._attempt.check()

    def sleep(self, seconds: float) -> None:
        """See `HandlerContext`."""
        self._attempt.wait(seconds)

    def requeue(self) -> NoReturn:
        """See `HandlerContext`."""
        self.check()
        raise Requeued

    def remaining_seconds(self) -> float:
        """See `HandlerContext`."""
        return self._attempt.remaining_seconds()

    def run_child(
        self,
        module: str,
        request: Mapping[str, Any],
        *,
        memory_bytes: int | None = None,
        timeout_seconds: float | None = None,
        max_file_bytes: int | None = None,
        max_folder_bytes: int | None = None,
        on_progress: Callable[[int, str | None], None] | None = None,
    ) -> dict[str, Any]:
        """See `HandlerContext`. The child's time ends a little before the attempt's, so that the child's error is
        returned and not the attempt's."""
        wall = max(0.5, min(timeout_seconds or float("inf"), self.remaining_seconds() - 0.5))
        file_bytes = max_file_bytes or DEFAULT_FILE_BYTES
        limits = ChildLimits(
            memory_bytes=memory_bytes or self.settings.child_memory_bytes,
            wall_seconds=wall,
            cpu_seconds=int(wall * 2) + 1,
            file_bytes=file_bytes,
            folder_bytes=max_folder_bytes or 2 * file_bytes,
        )
        return run_limited_child(
            module, request, limits, self.scratch, self.check, on_progress or self.progress, self._input_paths
        )

    @contextmanager
    def fenced_transaction(self) -> Iterator[Connection]:
        """See `HandlerContext`. The row is locked while the transaction lasts, so the claim cannot be lost in it."""
        with self._parts.engine.begin() as connection:
            parameters = {"id": self.task_id, "claim": self._attempt.task.claim}
            if connection.exec_driver_sql(hot_tasks.HOLD_CLAIM, parameters).first() is None:
                raise ClaimLost
            yield connection


def _input_gone() -> Failed:
    return Failed("/problems/input-gone", "Input gone", "A file that the task reads was deleted.")
