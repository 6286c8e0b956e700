"""What follows the end of a task is written in the transaction that ends it, once, however many end together."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any
from uuid import UUID

import orjson
import psycopg
import pytest
import sqlalchemy
from psycopg.rows import namedtuple_row

from shared.contracts.catalog import list_kinds
from shared.database.connections import make_engine
from shared.identifiers import new_id
from shared.queries import hot_tasks, relay
from shared.queries import tasks as task_queries
from shared.queries.batches import INSERT_FOLLOW_UP
from shared.queries.publishing import LISTEN
from shared.queries.workflows import INSERT_WORKFLOW
from shared.settings import Settings
from shared.tasks.actions import Changes, LockedTask, cancel_tasks, delete_tasks, lock_tasks, retry_tasks
from shared.tasks.options import TaskOptions
from shared.tasks.submission import make_task, submission_document
from shared.workflows.submission import NewWorkflow, StepPlan
from tests.claims import claim_tasks
from tests.conftest import PATIENCE_SECONDS, Eventually

OWNER = new_id()
COUNT_BLOCKED = """
SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"""
IS_BLOCKED = "SELECT count(*) FROM pg_stat_activity WHERE pid = %s AND wait_event_type = 'Lock'"
Connection = psycopg.Connection[Any]


@pytest.fixture
def connection(settings: Settings) -> Iterator[Connection]:
    with psycopg.connect(settings.database_url, autocommit=True, row_factory=namedtuple_row) as connection:
        yield connection


@pytest.fixture
def other_connection(settings: Settings) -> Iterator[Connection]:
    with psycopg.connect(settings.database_url, autocommit=True, row_factory=namedtuple_row) as connection:
        yield connection


def _submit_batch(connection: Connection, tasks: int, **options: object) -> tuple[UUID, list[UUID]]:
    """Submit a batch whose `on_finished` is a task with the tag `follows`; return its id and those of its tasks."""
    kind, batch_id = list_kinds()["platform.ping"], new_id()

    def make(**options: object) -> Any:
        return make_task("platform.ping", kind, b"{}", "files", TaskOptions(**options), OWNER, OWNER)

    new_tasks = [make(**options) for _ in range(tasks)]
    for task in new_tasks:
        task.batch_id = batch_id
    with connection.transaction():
        connection.execute(hot_tasks.SUBMIT, {"document": submission_document(new_tasks)})
        follow_up = {"batch_id": batch_id, "submissions": submission_document([make(tags=["follows"])])}
        connection.execute(INSERT_FOLLOW_UP, follow_up)
    return batch_id, [task.id for task in new_tasks]


def _list_following(connection: Connection) -> list[Any]:
    return connection.execute(
        """SELECT task.id, task.status, payload.params, (SELECT count(*) FROM task_events WHERE task_id = task.id) AS events
           FROM tasks task JOIN task_payloads payload ON payload.task_id = task.id WHERE task.tags = '{follows}'"""
    ).fetchall()


def _claim(connection: Connection, ids: list[UUID]) -> dict[UUID, int]:
    return {task.id: task.claim for task in claim_tasks(connection, ids)}


def _finish(connection: Connection, claims: dict[UUID, int]) -> None:
    endings = [{"id": str(i), "claim": claim, "status": "succeeded", "result": {}} for i, claim in claims.items()]
    connection.execute(hot_tasks.FINISH, {"document": orjson.dumps(endings).decode()})


@pytest.mark.parametrize("end", ["finish", "cancel", "expire", "sweep"])
def test_every_statement_that_ends_the_last_tasks_submits_what_follows(connection: Connection, end: str) -> None:
    batch_id, ids = _submit_batch(connection, 2, ttl=1 if end == "expire" else None, max_attempts=1)
    assert _list_following(connection) == []

    if end == "finish":
        _finish(connection, _claim(connection, ids))
    elif end == "cancel":
        connection.execute(task_queries.CANCEL, {"ids": ids})
    elif end == "expire":
        connection.execute("UPDATE tasks SET expires_at = now() WHERE batch_id = %s", (batch_id,))
        connection.execute(relay.EXPIRE, {"limit": 10})
    else:
        _claim(connection, ids)
        connection.execute("UPDATE tasks SET lease_until = now(), named_claim = claim WHERE batch_id = %s", (batch_id,))
        connection.execute(relay.SWEEP, {"limit": 10})

    (task,) = _list_following(connection)
    assert (task.status, task.params, task.events) == ("queued", {}, 1)
    noted = connection.execute("SELECT task_id FROM batch_follow_ups WHERE batch_id = %s", (batch_id,)).fetchone()
    assert noted == (task.id,)


def test_the_relay_is_notified_of_what_follows(connection: Connection, other_connection: Connection) -> None:
    _, ids = _submit_batch(connection, 1)
    claims = _claim(connection, ids)
    other_connection.execute(LISTEN)

    _finish(connection, claims)

    notices = other_connection.notifies(timeout=PATIENCE_SECONDS, stop_after=1)
    assert [notice.payload for notice in notices] == ["files"]


def test_the_tasks_of_a_batch_with_a_follow_up_are_marked(connection: Connection) -> None:
    _, followed = _submit_batch(connection, 2)
    other = make_task("platform.ping", list_kinds()["platform.ping"], b"{}", "files", TaskOptions(), OWNER, OWNER)
    connection.execute(hot_tasks.SUBMIT, {"document": submission_document([other])})

    marked = connection.execute("SELECT id FROM tasks WHERE has_follow_up ORDER BY id").fetchall()

    assert [task.id for task in marked] == followed


def test_two_transactions_that_end_the_last_two_tasks_submit_what_follows_once(
    connection: Connection, other_connection: Connection, eventually: Eventually, settings: Settings
) -> None:
    _, (first, second) = _submit_batch(connection, 2)
    claims = _claim(connection, [first, second])
    waiter = threading.Thread(target=_finish, args=(other_connection, {second: claims[second]}))

    with connection.transaction():
        _finish(connection, {first: claims[first]})
        waiter.start()
        eventually(lambda: connection.execute(IS_BLOCKED, (other_connection.info.backend_pid,)).fetchone() == (1,))
        assert _list_following(connection) == []
    waiter.join(timeout=30)

    assert len(_list_following(connection)) == 1


def test_statements_that_end_tasks_of_the_same_batches_never_deadlock(
    connection: Connection, other_connection: Connection, eventually: Eventually
) -> None:
    batches = [_submit_batch(connection, 2)[1] for _ in range(2)]
    claims = _claim(connection, [task for batch in batches for task in batch])
    ahead = {task: claims[task] for task in (batches[0][0], batches[1][0])}
    backwards = {task: claims[task] for task in (batches[1][1], batches[0][1])}
    waiter = threading.Thread(target=_finish, args=(other_connection, backwards))

    with connection.transaction():
        _finish(connection, {batches[0][0]: ahead[batches[0][0]]})
        waiter.start()
        eventually(lambda: connection.execute(IS_BLOCKED, (other_connection.info.backend_pid,)).fetchone() == (1,))
        _finish(connection, {batches[1][0]: ahead[batches[1][0]]})
    waiter.join(timeout=30)

    assert len(_list_following(connection)) == 2


def test_a_transaction_that_is_rolled_back_leaves_nothing_that_follows(connection: Connection) -> None:
    _, ids = _submit_batch(connection, 1)
    claims = _claim(connection, ids)

    with connection.transaction(force_rollback=True):
        _finish(connection, claims)
        assert len(_list_following(connection)) == 1
    assert _list_following(connection) == []

    _finish(connection, claims)
    assert len(_list_following(connection)) == 1


def test_a_retried_task_does_not_submit_what_follows_again(connection: Connection) -> None:
    _, (task,) = _submit_batch(connection, 1)
    connection.execute(task_queries.CANCEL, {"ids": [task]})

    connection.execute(task_queries.RETRY, {"ids": [task], "kind_attempts": [1]})
    connection.execute(task_queries.CANCEL, {"ids": [task]})

    assert len(_list_following(connection)) == 1


def _submit_workflow(connection: Connection, **after: list[str]) -> dict[str, UUID]:
    """Submit a workflow of these steps, each with the steps before it; return the task of each."""
    kind = list_kinds()["platform.ping"]
    (submission,) = orjson.loads(
        submission_document([make_task("platform.ping", kind, b"{}", "files", TaskOptions(), OWNER, OWNER)])
    )
    plans = [
        StepPlan(name, place, place, before, "cancel", {k: v for k, v in submission.items() if k != "id"})
        for place, (name, before) in enumerate(after.items())
    ]
    workflow = NewWorkflow(OWNER, OWNER, plans)
    connection.execute(INSERT_WORKFLOW, {"document": workflow.document()})
    rows = connection.execute("SELECT name, task_id FROM workflow_steps WHERE workflow_id = %s", (workflow.id,))
    return {row.name: row.task_id for row in rows.fetchall()}


def _history(connection: Connection, task_id: UUID) -> list[str]:
    rows = connection.execute("SELECT data FROM task_events WHERE task_id = %s ORDER BY seq", (task_id,)).fetchall()
    return [row.data["status"] for row in rows]


def test_one_statement_that_ends_both_steps_before_another_starts_it_once(connection: Connection) -> None:
    tasks = _submit_workflow(connection, a=[], b=[], last=["a", "b"])

    _finish(connection, _claim(connection, [tasks["a"], tasks["b"]]))

    assert _history(connection, tasks["last"]) == ["scheduled", "queued"]


def test_two_transactions_that_end_the_steps_before_another_start_it_once(
    connection: Connection, other_connection: Connection, eventually: Eventually
) -> None:
    tasks = _submit_workflow(connection, a=[], b=[], last=["a", "b"])
    claims = _claim(connection, [tasks["a"], tasks["b"]])
    waiter = threading.Thread(target=_finish, args=(other_connection, {tasks["b"]: claims[tasks["b"]]}))

    with connection.transaction():
        _finish(connection, {tasks["a"]: claims[tasks["a"]]})
        waiter.start()
        eventually(lambda: connection.execute(IS_BLOCKED, (other_connection.info.backend_pid,)).fetchone() == (1,))
        assert _history(connection, tasks["last"]) == ["scheduled"]
    waiter.join(timeout=30)

    assert _history(connection, tasks["last"]) == ["scheduled", "queued"]
    assert connection.execute("SELECT status FROM workflows").fetchall() == [("running",)]


CallersAction = Callable[[sqlalchemy.Connection, Sequence[LockedTask]], Changes]


@pytest.mark.parametrize("action", [cancel_tasks, partial(retry_tasks, privileged=True), delete_tasks])
def test_an_action_on_a_step_that_waits_never_deadlocks_with_the_step_before_it(
    connection: Connection, settings: Settings, eventually: Eventually, action: CallersAction
) -> None:
    tasks = _submit_workflow(connection, a=[], b=["a"])
    if action is not cancel_tasks:
        connection.execute(task_queries.CANCEL, {"ids": [tasks["a"]]})

    def act(engine: sqlalchemy.Engine) -> Changes:
        with engine.begin() as other:
            return action(other, lock_tasks(other, [tasks["b"]]))

    engine = make_engine(settings, "test")
    with ThreadPoolExecutor(1) as thread:
        with connection.transaction():
            connection.execute("SELECT FROM workflows FOR NO KEY UPDATE")
            with engine.begin() as other:
                assert lock_tasks(other, [tasks["b"]], skip_locked=True) == []
            changes = thread.submit(act, engine)
            eventually(lambda: connection.execute(COUNT_BLOCKED).fetchone() == (1,))
            if action is cancel_tasks:
                _finish(connection, _claim(connection, [tasks["a"]]))
            else:
                connection.execute(task_queries.RETRY, {"ids": [tasks["a"]], "kind_attempts": [3]})
        changed = changes.result(timeout=30).changed
    engine.dispose()

    assert changed == ([tasks["b"]] if action is cancel_tasks else [])
    statuses = (
        ["scheduled", "queued", "cancelled"] if action is cancel_tasks else ["scheduled", "cancelled", "scheduled"]
    )
    assert _history(connection, tasks["b"]) == statuses


def test_a_step_expires_once_no_transaction_has_locked_its_workflow(
    connection: Connection, other_connection: Connection
) -> None:
    tasks = _submit_workflow(connection, a=[], b=["a"])
    connection.execute("UPDATE tasks SET ttl = 1, expires_at = now() WHERE id = %s", (tasks["b"],))

    with connection.transaction():
        connection.execute("SELECT FROM workflows FOR NO KEY UPDATE")
        assert other_connection.execute(relay.EXPIRE, {"limit": 10}).fetchall() == []

    assert other_connection.execute(relay.EXPIRE, {"limit": 10}).fetchall() == [(tasks["b"],)]


def test_a_hundred_steps_in_a_line_are_cancelled_with_the_first(connection: Connection) -> None:
    names = [f"s{n}" for n in range(100)]
    tasks = _submit_workflow(connection, **{name: names[max(0, n - 1) : n] for n, name in enumerate(names)})

    connection.execute(task_queries.CANCEL, {"ids": [tasks["s0"]]})

    assert connection.execute("SELECT status FROM workflows").fetchall() == [("cancelled",)]
    assert connection.execute("SELECT status, count(*) FROM tasks GROUP BY status").fetchall() == [("cancelled", 100)]
