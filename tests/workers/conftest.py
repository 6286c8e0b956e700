"""Tasks by SQL, and the parts of the engine in this process, for tests that choose what a handler does and when."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol
from uuid import UUID, uuid4

import psutil
import psycopg
import pytest
from psycopg.rows import namedtuple_row

from shared.contracts.catalog import list_kinds
from shared.database.connections import connect_hot, make_engine
from shared.queries import hot_tasks
from shared.queries import tasks as task_queries
from shared.queries.relay import PROMOTE
from shared.settings import Settings
from shared.storage.open_store import open_object_store
from shared.tasks.options import TaskOptions
from shared.tasks.submission import make_task, needs_keyed_form, submission_document
from tests.claims import claim_tasks
from tests.conftest import wait_until_true
from workers.engine.activity import Activity
from workers.engine.attempt import Attempt
from workers.engine.attempt_context import WorkerParts
from workers.engine.executor import Executor
from workers.engine.finishing import Finish, Finisher, FinishWriter
from workers.engine.handler_catalog import Handler
from workers.engine.heartbeat import Heartbeat
from workers.engine.progress_writer import ProgressWriter
from workers.engine.task_log_writer import TaskLogWriter

SOMEONE = uuid4()


@pytest.fixture
def limited_children() -> Callable[[], list[psutil.Process]]:
    """Returns the processes that this one has started since the test began, and that still run.

    Processes that were started before, such as the Postgres of the tests, and their children are left out.
    """
    before = set(psutil.Process().children())

    def find() -> list[psutil.Process]:
        found = {child for child in psutil.Process().children() if child not in before}
        for child in list(found):
            with suppress(psutil.NoSuchProcess):
                found |= set(child.children(recursive=True))
        return [child for child in found if _still_runs(child)]

    return find


def _still_runs(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


class Tasks:
    """Submits tasks with the statements of the API, but without HTTP, and reads their rows."""

    def __init__(self, settings: Settings) -> None:
        self.connection: psycopg.Connection[Any] = psycopg.connect(
            settings.database_url, autocommit=True, row_factory=namedtuple_row
        )

    def submit(
        self,
        kind: str = "platform.ping",
        *,
        owner: UUID = SOMEONE,
        count: int = 1,
        params: dict[str, Any] | None = None,
        **options: object,
    ) -> list[UUID]:
        """Submit so many equal tasks and return their ids, in their order."""
        contract = list_kinds()[kind]
        validated = contract.params.model_validate(params or {})
        new = [
            make_task(
                kind,
                contract,
                validated.model_dump_json(by_alias=True).encode(),
                contract.queue_for(validated),
                TaskOptions(**options),
                owner,
                owner,
            )
            for _ in range(count)
        ]
        statement = hot_tasks.SUBMIT_KEYED if any(map(needs_keyed_form, new)) else hot_tasks.SUBMIT
        self.connection.execute(statement, {"document": submission_document(new)})
        return [task.id for task in new]

    def submit_one(
        self,
        kind: str = "platform.ping",
        *,
        owner: UUID = SOMEONE,
        params: dict[str, Any] | None = None,
        **options: object,
    ) -> UUID:
        return self.submit(kind, owner=owner, count=1, params=params, **options)[0]

    def get(self, task_id: UUID) -> Any:
        """Return the row of a task, with its payload."""
        return self.connection.execute(
            "SELECT t.*, p.* FROM tasks t JOIN task_payloads p ON p.task_id = t.id WHERE t.id = %s", (task_id,)
        ).fetchone()

    def status(self, task_id: UUID) -> str:
        return str(self.get(task_id).status)

    def count(self, status: str) -> int:
        row = self.connection.execute("SELECT count(*) AS n FROM tasks WHERE status = %s", (status,)).fetchone()
        return int(row.n) if row else 0

    def all_done(self, ids: list[UUID]) -> bool:
        row = self.connection.execute(
            "SELECT count(*) AS n FROM tasks WHERE id = ANY(%s) AND finished_at IS NULL", (ids,)
        ).fetchone()
        return row is not None and row.n == 0

    def statuses(self, ids: list[UUID]) -> set[str]:
        rows = self.connection.execute("SELECT DISTINCT status FROM tasks WHERE id = ANY(%s)", (ids,))
        return {row.status for row in rows}

    def history(self, task_id: UUID) -> list[str]:
        """Return the statuses that a task has had. Asserts that its events have no gap, and that its version counts them."""
        events = self.connection.execute(
            "SELECT seq, type, data FROM task_events WHERE task_id = %s ORDER BY seq", (task_id,)
        ).fetchall()
        assert [event.seq for event in events] == list(range(1, self.get(task_id).version + 1))
        return [event.data["status"] for event in events if event.type == "status"]

    def cancel(self, task_id: UUID) -> None:
        self.connection.execute(task_queries.CANCEL, {"ids": [task_id]})

    def publish(self, ids: Sequence[UUID], *, turn: float | None = None, seconds_ago: float = 0) -> None:
        """Mark tasks as published so many seconds ago, the first of them with this turn, the next with the one after."""
        for place, task_id in enumerate(ids):
            self.connection.execute(
                "UPDATE tasks SET rung_at = now() - %s * interval '1 second', turn = %s WHERE id = %s AND status = 'queued'",
                (seconds_ago, None if turn is None else turn + place, task_id),
            )


@pytest.fixture
def tasks(settings: Settings) -> Iterator[Tasks]:
    """Tasks by SQL."""
    tasks = Tasks(settings)
    yield tasks
    tasks.connection.close()


@pytest.fixture
def connect_tasks() -> type[Tasks]:
    """Opens tasks by SQL in another database, which the given settings name."""
    return Tasks


class HookedWriter(FinishWriter):
    """Calls `before` and `after` around each statement that writes finishes. What they raise is raised to the finisher."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.before: Callable[[Sequence[Finish]], None] = lambda finishes: None
        self.after: Callable[[Sequence[Finish]], None] = lambda finishes: None

    def write(self, finishes: Sequence[Finish]) -> dict[UUID, str | None]:
        self.before(finishes)
        statuses = super().write(finishes)
        self.after(finishes)
        return statuses


class WaitingPool:
    """Stands for the pool of threads: attempts wait in it until the test runs them."""

    def __init__(self) -> None:
        self.attempts: list[Attempt] = []

    def execute(self, attempt: Attempt) -> None:
        self.attempts.append(attempt)

    def announce_requeue(self, attempt: Attempt) -> None:
        """Send nothing: nothing receives events."""


class Bench:
    """Claims tasks and runs their attempts in this process, with the test's own `handlers` by kind."""

    def __init__(self, settings: Settings, scratch: Path) -> None:
        self.settings = settings
        self.handlers: dict[str, Handler] = {}
        self.stuck: list[Attempt] = []
        self.waiting: list[Attempt] = []
        self.writer = HookedWriter(settings)
        self.finisher = Finisher(settings, writer=self.writer)
        self.finisher.start()
        self.store = open_object_store(settings.storage_url)
        self.scratch = scratch
        self._claims = connect_hot(settings, "bench", durable=False)
        self._engine = make_engine(settings, "bench")
        self._progress = ProgressWriter(lambda: connect_hot(settings, "bench"), self.finisher.wake_waiters)
        self.task_log = TaskLogWriter(lambda: connect_hot(settings, "bench"), self.finisher.wake_waiters)
        self._pool = WaitingPool()
        self._activity = Activity()
        self.executor = self.make_executor(self.finisher)
        self.heartbeat = Heartbeat(
            settings,
            self.executor.list_attempts,
            self.stuck.append,
            lambda attempts: self.on_waiting(attempts),
            worker="the bench",
            queues=["files"],
            slots=1,
            activity=self._activity,
            consumes=lambda: False,
        )
        self.on_waiting: Callable[[Iterable[Attempt]], None] = self.waiting.extend

    def make_executor(self, finisher: Finisher) -> Executor:
        parts = WorkerParts(self.settings, self._engine, self.store, self._progress, self.task_log)
        return Executor(
            parts,
            self.handlers,
            self._pool,
            finisher,
            self.scratch,
            activity=self._activity,
            free_slot=lambda seconds: None,
        )

    def claim(self, *ids: UUID, executor: Executor | None = None) -> list[Attempt]:
        """Claim those of the tasks that can be claimed, and return their attempts, which wait for a slot."""
        self._pool.attempts = []
        for task in claim_tasks(self._claims, ids, lease_seconds=self.settings.lease_seconds):
            (executor or self.executor).start(task)
        return self._pool.attempts

    def run(self, attempt: Attempt) -> None:
        """Run an attempt in this thread, and wait until its finish is written."""
        self.executor.run(attempt.task_id)
        wait_until_true(lambda: attempt not in self.executor.list_attempts())

    def start(self, attempt: Attempt) -> threading.Thread:
        """Run an attempt in a thread of its own."""
        thread = threading.Thread(target=self.run, args=(attempt,), daemon=True)
        thread.start()
        return thread

    def do(self, task_id: UUID) -> None:
        """Claim one task and run its attempt."""
        (attempt,) = self.claim(task_id)
        self.run(attempt)

    def close(self) -> None:
        self.heartbeat.stop()
        self.finisher.close()
        self._progress.close()
        self.task_log.close()
        self._claims.close()
        self._engine.dispose()


@pytest.fixture
def bench(settings: Settings, tmp_path: Path) -> Iterator[Bench]:
    """The parts of the engine, in this process."""
    bench = Bench(settings, tmp_path / "bench")
    yield bench
    bench.close()


class MakeDue(Protocol):
    """The fixture `make_due`."""

    def __call__(self, task_id: UUID) -> None:
        """Make a `retrying` task due now, and promote it."""


@pytest.fixture
def make_due(tasks: Tasks) -> MakeDue:
    """Makes a `retrying` task due now, and promotes it."""

    def make(task_id: UUID) -> None:
        tasks.connection.execute("UPDATE tasks SET next_attempt_at = now() WHERE id = %s", (task_id,))
        tasks.connection.execute(PROMOTE, {"limit": 10})

    return make
