"""What a handler can use: input files, a scratch folder, progress, artifacts, cancellation, a log.

A handler is a function `handle(params, context) -> Result` in the module that bears its kind's name. It runs in a
thread of a worker process, and reads untrusted bytes in a limited child only (`context.run_child`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, NoReturn, Protocol
from uuid import UUID

from sqlalchemy import Connection, Engine
from structlog.typing import FilteringBoundLogger

from shared.limits import HeldLimits
from shared.settings import Settings
from shared.storage.object_store import ObjectStore

STOP_CHECK_SECONDS: Final = 0.25
"""How often a wait for another server checks whether the attempt must stop."""
LogLevel = Literal["debug", "info", "warning", "error"]


@dataclass(frozen=True)
class InputFile:
    """A stored file, as a local one that may be read and never written."""

    id: UUID
    path: Path
    name: str
    """The safe form of the name it was uploaded under; only for people."""
    media_type: str
    """What its bytes are."""
    size: int
    sha256: str


class HandlerContext(Protocol):
    """One attempt, seen from its handler. Every method but `log` raises `Stopped` when the attempt must end."""

    task_id: UUID
    attempt: int
    """1 for the first."""
    max_attempts: int
    settings: Settings
    store: ObjectStore
    """The object store, for the platform's own chores."""
    log: FilteringBoundLogger
    """Bears the task's id already. Never log params, results or anything of a person's."""

    @property
    def scratch(self) -> Path:
        """An empty folder of this attempt, erased when it ends."""

    @property
    def engine(self) -> Engine:
        """The database, for the platform's own chores; a handler's own effects go through `fenced_transaction`."""

    def held_limits(self) -> HeldLimits:
        """Return the limits that hold for the owner of the task, as they are now."""

    def input_file(self, file_id: UUID) -> InputFile:
        """Return an input as a local file. Raises `Failed` (`/problems/input-gone`) when it was purged."""

    def progress(self, percent: int, message: str | None = None) -> None:
        """Report how far the work is, 0 to 100. It may be called often: at most two reports a second are stored."""

    def write_log(self, level: LogLevel, text: str, **fields: Any) -> None:
        """Write a line into the task's log, for the owner of the task; `fields` are JSON values.

        It may be called often: lines are written together, some ten times a second. A task keeps 1,000 lines and 256 KiB,
        and then one that says so. `log` is another log, for the operators.
        """

    def add_artifact(self, path: Path, name: str, media_type: str) -> None:
        """Store a file of the scratch folder; the task shows it if the attempt succeeds."""

    def wake(self, task_ids: Sequence[UUID]) -> None:
        """Wake the requests that wait for tasks which the handler has changed."""

    def check(self) -> None:
        """Raise `Stopped` if the attempt must stop. Call it in every loop that may take long."""

    def sleep(self, seconds: float) -> None:
        """Wait for so many seconds. Raises `Stopped` as soon as the attempt must stop."""

    def remaining_seconds(self) -> float:
        """Return how many seconds the attempt has left."""

    def requeue(self) -> NoReturn:
        """End the attempt, which does not count, and requeue the task, so that others have its slot first. Raises `Requeued`."""

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
        """Run `module`'s `run_in_child(request, report_progress)` in a limited child and return its answer.

        Where the kernel allows it, the child has no network and reads no other files than those of `input_file`, those in
        `scratch`, and programs. The child may write files of `max_file_bytes` each into `scratch`, and of `max_folder_bytes`
        (by default twice as much) together. Its progress goes to `progress` unless `on_progress` is given. Raises the child's
        `Failed`, or the error of the limit that ended it (`workers/sandbox/limited_child.py`).
        """

    def fenced_transaction(self) -> AbstractContextManager[Connection]:
        """Open a transaction that commits durably, and only if this attempt still holds its claim.

        For effects that have a row of their own, such as an email's intent and receipt.
        """
