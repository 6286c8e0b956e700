"""The in-memory twin of an attempt, for tests of handlers: it keeps files in a folder, progress and artifacts in lists."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, NoReturn
from uuid import UUID, uuid4

import structlog
from sqlalchemy import Connection, Engine

from shared.limits import NO_LIMITS, HeldLimits
from shared.settings import Settings
from shared.storage.open_store import open_object_store
from workers.handler_context import InputFile, LogLevel
from workers.outcomes import Failed, Requeued, Stopped, TimedOut
from workers.sandbox.limited_child import DEFAULT_FILE_BYTES, ChildLimits, run_limited_child


@dataclass(frozen=True)
class KeptArtifact:
    """An artifact that a handler added."""

    name: str
    media_type: str
    content: bytes


class LogLine(NamedTuple):
    """A line that a handler wrote into its task's log."""

    level: LogLevel
    text: str
    fields: dict[str, Any]


class MemoryContext:
    """Implements `HandlerContext` without a database or an object store. Limited children are real.

    A test reads `artifacts`, `progress_calls` and `log_lines`, and may set

    - `stop_with`: what the next method raises, as when the task is cancelled;
    - `stop_after_progress`: the same, from the first progress on;
    - `memory_bytes`: the memory of a limited child;
    - `limits`: the limits of the task's owner.
    """

    def __init__(
        self,
        folder: Path,
        *,
        task_id: UUID | None = None,
        attempt: int = 1,
        max_attempts: int = 3,
        settings: Settings | None = None,
        timeout_seconds: float = 60.0,
        memory_bytes: int = 2 << 30,
        engine: Engine | None = None,
    ) -> None:
        self.task_id = task_id or uuid4()
        self.attempt = attempt
        self.max_attempts = max_attempts
        self.settings = settings or Settings()
        self.store = open_object_store(f"file://{folder / 'objects'}")
        self.scratch = folder / "scratch"
        self.scratch.mkdir(parents=True, exist_ok=True)
        self.log = structlog.get_logger().bind(task_id=str(self.task_id))
        self.artifacts: list[KeptArtifact] = []
        self.progress_calls: list[tuple[int, str | None]] = []
        self.log_lines: list[LogLine] = []
        self.woken: list[UUID] = []
        self.stop_with: Stopped | None = None
        self.stop_after_progress: Stopped | None = None
        self.memory_bytes = memory_bytes
        self.limits = NO_LIMITS
        self._files: dict[UUID, InputFile] = {}
        self._folder = folder
        self._deadline = time.monotonic() + timeout_seconds
        self._engine = engine

    def add_input(self, content: bytes, name: str = "input", media_type: str = "application/octet-stream") -> UUID:
        """Store bytes as an input file and return its id."""
        file_id = uuid4()
        path = self._folder / "inputs" / str(file_id)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
        self._files[file_id] = InputFile(
            file_id, path, name, media_type, len(content), hashlib.sha256(content).hexdigest()
        )
        return file_id

    def held_limits(self) -> HeldLimits:
        self.check()
        return self.limits

    def input_file(self, file_id: UUID) -> InputFile:
        self.check()
        if file_id not in self._files:
            raise Failed("/problems/input-gone", "Input gone", "A file that the task reads was deleted.")
        return self._files[file_id]

    def progress(self, percent: int, message: str | None = None) -> None:
        self.check()
        self.progress_calls.append((percent, message))
        self.stop_with = self.stop_with or self.stop_after_progress

    def write_log(self, level: LogLevel, text: str, **fields: Any) -> None:
        self.check()
        self.log_lines.append(LogLine(level, text, fields))

    def add_artifact(self, path: Path, name: str, media_type: str) -> None:
        self.check()
        self.artifacts.append(KeptArtifact(name, media_type, path.read_bytes()))

    def wake(self, task_ids: Sequence[UUID]) -> None:
        self.woken.extend(task_ids)

    def check(self) -> None:
        if self.stop_with is not None:
            raise self.stop_with
        if self.remaining_seconds() <= 0:
            raise TimedOut

    def sleep(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self.check()
            time.sleep(min(left, 0.02))

    def requeue(self) -> NoReturn:
        self.check()
        raise Requeued

    def remaining_seconds(self) -> float:
        return self._deadline - time.monotonic()

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
        wall = min(timeout_seconds or self.remaining_seconds(), self.remaining_seconds())
        file_bytes = max_file_bytes or DEFAULT_FILE_BYTES
        limits = ChildLimits(
            memory_bytes=memory_bytes or self.memory_bytes,
            wall_seconds=wall,
            cpu_seconds=int(wall * 2) + 1,
            file_bytes=file_bytes,
            folder_bytes=max_folder_bytes or 2 * file_bytes,
        )
        inputs = [file.path for file in self._files.values()]
        return run_limited_child(
            module, request, limits, self.scratch, self.check, on_progress or self.progress, inputs
        )

    @property
    def engine(self) -> Engine:
        """The database that the test passed."""
        assert self._engine is not None, "this handler needs a database: pass an engine to the context"
        return self._engine

    @contextmanager
    def fenced_transaction(self) -> Iterator[Connection]:
        with self.engine.begin() as connection:
            yield connection
