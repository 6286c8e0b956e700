"""The database holds the table of moves, what each state must bear, and the fence around running rows."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from itertools import permutations
from typing import Any
from uuid import UUID

import orjson
import psycopg
import pytest
from psycopg.types.json import Jsonb

from cli.local_stack.postgres import PostgresServer
from shared.identifiers import new_id
from shared.queries import files as file_queries
from shared.queries import hot_tasks, key_limits, publishing, submissions
from shared.queries import relay as relay_queries
from shared.queries import schedules as schedule_queries
from shared.queries import tasks as task_queries
from shared.tables.tasks import tasks as tasks_table
from shared.tasks.states import DONE, FIRST_STATES, MOVES, RETRIABLE, TaskStatus
from tests.conftest import new_database

Connection = psycopg.Connection[tuple[Any, ...]]
CLAIM = 4711
OLDER_CLAIM = 4710

BEARS: dict[TaskStatus, str] = {
    TaskStatus.SCHEDULED: "run_at = now()",
    TaskStatus.QUEUED: "run_at = NULL",
    TaskStatus.RUNNING: f"claim = {CLAIM}, lease_until = now()",
    TaskStatus.RETRYING: "next_attempt_at = now()",
    **dict.fromkeys(DONE, "finished_at = now(), purge_at = now()"),
}
"""What a row in each state must bear beside it."""

NOTHING = "claim = NULL, lease_until = NULL, next_attempt_at = NULL, finished_at = NULL, purge_at = NULL"
NAMED = "named_claim = CASE WHEN named_claim = claim THEN ~claim ELSE claim END"


@pytest.fixture(scope="module")
def database(postgres_server: PostgresServer) -> Iterator[Connection]:
    """One database for all: each test has rows of its own."""
    with new_database(postgres_server) as url, psycopg.connect(url, autocommit=True) as connection:
        yield connection


@pytest.fixture(autouse=True)
def with_triggers(database: Connection) -> None:
    database.execute("SET session_replication_role = origin")


def _insert(connection: Connection, status: TaskStatus) -> UUID:
    """A task in any state, past the triggers."""
    task_id = new_id()
    connection.execute("SET session_replication_role = replica")
    connection.execute(
        """INSERT INTO tasks (id, kind, queue, status, organization_id, owner_id, max_attempts, timeout_seconds,
               keep_seconds, claim, lease_until, run_at, next_attempt_at, finished_at, purge_at, attempt)
           SELECT %(id)s, 'platform.ping', 'files', %(status)s, %(id)s, %(id)s, 3, 60, 60,
               CASE WHEN %(status)s = 'running' THEN %(claim)s END, CASE WHEN %(status)s = 'running' THEN now() END,
               CASE WHEN %(status)s = 'scheduled' THEN now() END, CASE WHEN %(status)s = 'retrying' THEN now() END,
               CASE WHEN %(done)s THEN now() END, CASE WHEN %(done)s THEN now() END, 1""",
        {"id": task_id, "status": status.value, "claim": CLAIM, "done": status.done},
    )
    connection.execute("INSERT INTO task_payloads (task_id, params) VALUES (%s, '{}')", (task_id,))
    connection.execute("SET session_replication_role = origin")
    return task_id


def _update(connection: Connection, task_id: UUID, assignments: str) -> None:
    connection.execute(f"UPDATE tasks SET {assignments} WHERE id = %s", (task_id,))  # type: ignore[arg-type]


def _row(connection: Connection, task_id: UUID) -> tuple[Any, ...] | None:
    return connection.execute("SELECT * FROM tasks WHERE id = %s", (task_id,)).fetchone()


def test_the_database_makes_exactly_the_moves_that_the_code_knows(database: Connection) -> None:
    allowed = set()

    for before, after in permutations(TaskStatus, 2):
        task_id = _insert(database, before)
        named = NAMED if before is TaskStatus.RUNNING else "named_claim = NULL"
        bears = ", ".join(
            f"{column} = {value}"
            for column, value in (
                dict(part.split(" = ") for part in NOTHING.split(", "))
                | dict(part.split(" = ") for part in BEARS[after].split(", "))
            ).items()
        )
        try:
            _update(database, task_id, f"status = '{after}', {named}, {bears}")
            allowed.add((before, after))
        except psycopg.Error as error:
            assert error.sqlstate == "TM001", (before, after, error)
            assert "no such move" in str(error)

    assert allowed == MOVES


@pytest.mark.parametrize("status", TaskStatus)
def test_a_task_begins_only_as_scheduled_or_queued(database: Connection, status: TaskStatus) -> None:
    columns, values = zip(*(part.split(" = ") for part in BEARS[status].split(", ")), strict=True)
    insert = f"""
        INSERT INTO tasks (id, kind, queue, status, organization_id, owner_id, max_attempts, timeout_seconds, keep_seconds,
            {", ".join(columns)})
        VALUES (%(id)s, 'platform.ping', 'files', '{status}', %(id)s, %(id)s, 3, 60, 60, {", ".join(values)})"""

    if status in FIRST_STATES:
        database.execute(insert, {"id": new_id()})  # type: ignore[arg-type]
    else:
        with pytest.raises(psycopg.Error, match="may not begin") as caught:
            database.execute(insert, {"id": new_id()})  # type: ignore[arg-type]
        assert caught.value.sqlstate == "TM001"


@pytest.mark.parametrize("status", TaskStatus)
def test_only_a_finished_task_may_be_deleted(database: Connection, status: TaskStatus) -> None:
    task_id = _insert(database, status)

    if status.done:
        database.execute("DELETE FROM tasks WHERE id = %s", (task_id,))
        assert _row(database, task_id) is None
    else:
        with pytest.raises(psycopg.Error, match="only a finished task"):
            database.execute("DELETE FROM tasks WHERE id = %s", (task_id,))


@pytest.mark.parametrize(
    ("status", "assignment", "constraint"),
    [
        (TaskStatus.QUEUED, "claim = 1", "claimed_iff_running"),
        (TaskStatus.QUEUED, "lease_until = now()", "leased_iff_running"),
        (TaskStatus.RUNNING, f"claim = NULL, {NAMED}", "claimed_iff_running"),
        (TaskStatus.RUNNING, f"lease_until = NULL, {NAMED}", "leased_iff_running"),
        (TaskStatus.QUEUED, "finished_at = now()", "finished_iff_done"),
        (TaskStatus.SUCCEEDED, "finished_at = NULL", "finished_iff_done"),
        (TaskStatus.QUEUED, "purge_at = now()", "purged_only_when_done"),
        (TaskStatus.FAILED, "purge_at = NULL", "purged_only_when_done"),
        (TaskStatus.QUEUED, "next_attempt_at = now()", "next_attempt_iff_retrying"),
        (TaskStatus.RETRYING, "next_attempt_at = NULL", "next_attempt_iff_retrying"),
        (TaskStatus.SCHEDULED, "run_at = NULL", "scheduled_for_a_time"),
        (TaskStatus.QUEUED, "priority = 10", "priority"),
        (TaskStatus.QUEUED, "attempt = 4", "attempt_within_max"),
        (TaskStatus.QUEUED, "attempt = -1", "attempt_within_max"),
        (TaskStatus.QUEUED, "max_attempts = 0, attempt = 0", "max_attempts"),
        (TaskStatus.QUEUED, "progress_percent = 101", "progress_percent"),
        (TaskStatus.QUEUED, "status = 'other'", "known_status"),
    ],
)
def test_constraints_refuse_columns_that_do_not_fit_the_status(
    database: Connection, status: TaskStatus, assignment: str, constraint: str
) -> None:
    task_id = _insert(database, status)
    # Triggers are disabled, because they would refuse some of these changes before the constraints do.
    database.execute("SET session_replication_role = replica")

    with pytest.raises(psycopg.errors.CheckViolation) as caught:
        _update(database, task_id, assignment)

    assert caught.value.diag.constraint_name == f"ck_tasks_{constraint}"


CHANGED = {
    "uuid": "'00000000-0000-7000-8000-00000000000a'",
    "text": "'other'",
    "smallint": "2",
    "integer": "2",
    "bigint": "4710",
    "timestamp with time zone": "'2020-01-01'",
    "double precision": "2.5",
    "ARRAY": "'{other}'",
    "boolean": "true",
    "jsonb": "'{\"a\": 1}'",
}
NEEDS = {
    "status": "status = 'succeeded', claim = NULL, lease_until = NULL, finished_at = now(), purge_at = now()",
    "queue": "queue = 'reports'",
    "finished_at": "status = 'failed', finished_at = now(), purge_at = now(), claim = NULL, lease_until = NULL",
    "purge_at": "status = 'failed', finished_at = now(), purge_at = now(), claim = NULL, lease_until = NULL",
    "next_attempt_at": "status = 'retrying', next_attempt_at = now(), claim = NULL, lease_until = NULL",
}


@pytest.mark.parametrize("column", [column.name for column in tasks_table.c])
def test_no_column_of_a_running_task_changes_unless_its_claim_is_named(database: Connection, column: str) -> None:
    task_id = _insert(database, TaskStatus.RUNNING)
    kind = database.execute(
        "SELECT data_type FROM information_schema.columns WHERE table_name = 'tasks' AND column_name = %s", (column,)
    ).fetchone()
    assert kind is not None
    assignment = NEEDS.get(column, f"{column} = {CHANGED[kind[0]]}")
    before = _row(database, task_id)

    with pytest.raises(psycopg.Error, match="the claim was not named") as caught:
        _update(database, task_id, assignment)
    assert caught.value.sqlstate == "TM001"
    if column != "named_claim":
        with pytest.raises(psycopg.Error, match="the claim was not named"):
            _update(database, task_id, f"{assignment}, named_claim = {OLDER_CLAIM}")
    assert _row(database, task_id) == before


def test_a_write_that_names_the_claim_turns_it_into_its_complement_and_back(database: Connection) -> None:
    task_id = _insert(database, TaskStatus.RUNNING)
    seen = []

    for percent in range(4):
        _update(database, task_id, f"progress_percent = {percent}, {NAMED}")
        row = database.execute("SELECT named_claim FROM tasks WHERE id = %s", (task_id,)).fetchone()
        assert row is not None
        seen.append(row[0])

    assert seen == [CLAIM, ~CLAIM, CLAIM, ~CLAIM]


@pytest.mark.parametrize("name", [CLAIM, ~CLAIM])
def test_naming_the_claim_once_more_in_the_same_form_is_refused(database: Connection, name: int) -> None:
    # Otherwise an UPDATE that does not set the column would look like one that names the claim.
    task_id = _insert(database, TaskStatus.RUNNING)
    _update(database, task_id, NAMED)
    if name == ~CLAIM:
        _update(database, task_id, NAMED)

    with pytest.raises(psycopg.Error, match="the claim was not named"):
        _update(database, task_id, f"named_claim = {name}, progress_percent = 1")


def test_a_task_that_is_not_running_may_be_changed_without_a_claim(database: Connection) -> None:
    task_id = _insert(database, TaskStatus.QUEUED)

    _update(database, task_id, "progress_percent = 1")


def _finish(task_id: UUID, claim: int, status: str = "succeeded") -> dict[str, Any]:
    ending = {"id": task_id, "claim": claim, "status": status, "result": {}, "delay": 1.0}
    return {"document": orjson.dumps([ending]).decode()}


def _parameters(task_id: UUID, claim: int) -> dict[str, dict[str, Any]]:
    ids, claims = f"{{{task_id}}}", f"{{{claim}}}"
    return {
        "RENEW": {"ids": ids, "claims": claims, "lease": 5.0},
        "REPORT_PROGRESS": {"id": task_id, "claim": claim, "percent": 5, "message": None},
        "WRITE_LOG": {
            "id": task_id,
            "claim": claim,
            "count": 1,
            "document": orjson.dumps([{"position": 1, "age": 0.0, "data": {}}]).decode(),
        },
        "FINISH": _finish(task_id, claim),
        "FINISH_WITH_ARTIFACTS": _finish(task_id, claim),
        "FINISH_ANY": _finish(task_id, claim),
        "CANCEL": {"ids": [task_id]},
        "SWEEP": {"limit": 10_000},
        "CLAIM": {
            "queues": ["files"],
            "counts": [5],
            "kinds": ["platform.ping"],
            "claims": [9] * 5,
            "lease": 5.0,
            "worker": "w",
        },
        "MARK_PUBLISHED": {"queue": "files", "window": 10},
        "MARK_WITHIN_LIMITS": {"queue": "files", "window": 10},
        "PROMOTE": {"limit": 10},
        "EXPIRE": {"limit": 10},
        "UNMARK_UNCLAIMED": {"queue": "files", "seconds": 0.0, "limit": 10},
        "UNMARK_NEXT": {"queue": "files", "tasks": 10},
        "UNMARK": {"ids": [task_id]},
        "UNBLOCK": {},
        "RETRY": {"ids": [task_id], "kind_attempts": [3]},
    }


def _statements_that_update_tasks() -> dict[str, str]:
    return {
        name: value
        for module in (
            hot_tasks,
            publishing,
            key_limits,
            task_queries,
            relay_queries,
            submissions,
            schedule_queries,
            file_queries,
        )
        for name, value in inspect.getmembers(module)
        if not name.startswith("_") and isinstance(value, str) and "UPDATE tasks" in value
    }


OF_THE_CLAIM = {"RENEW", "REPORT_PROGRESS", "WRITE_LOG", "FINISH", "FINISH_WITH_ARTIFACTS", "FINISH_ANY"}
OF_OTHERS = {"CANCEL", "SWEEP"}


@pytest.mark.parametrize("name", sorted(_statements_that_update_tasks()))
def test_a_statement_leaves_a_running_task_alone_or_names_its_claim(database: Connection, name: str) -> None:
    statement = _statements_that_update_tasks()[name]
    task_id = _insert(database, TaskStatus.RUNNING)
    before = _row(database, task_id)

    database.execute(statement, _parameters(task_id, CLAIM)[name])  # type: ignore[arg-type]

    assert (_row(database, task_id) != before) == (name in OF_THE_CLAIM | OF_OTHERS)


@pytest.mark.parametrize("name", sorted(OF_THE_CLAIM))
def test_a_statement_of_an_older_claim_changes_nothing(database: Connection, name: str) -> None:
    task_id = _insert(database, TaskStatus.RUNNING)
    before = _row(database, task_id)

    rows = database.execute(
        _statements_that_update_tasks()[name],  # type: ignore[arg-type]
        _parameters(task_id, OLDER_CLAIM)[name],
    ).fetchall()

    assert rows == []
    assert _row(database, task_id) == before
    assert database.execute("SELECT FROM task_events WHERE task_id = %s", (task_id,)).fetchall() == []


@pytest.mark.parametrize("status", sorted(RETRIABLE))
def test_a_retry_by_a_caller_clears_the_columns_of_earlier_attempts(database: Connection, status: TaskStatus) -> None:
    task_id = _insert(database, status)
    _update(database, task_id, "ttl = 5, expires_at = now(), run_at = now(), cancel_requested_at = now(), attempt = 3")
    database.execute("UPDATE task_payloads SET error = %s WHERE task_id = %s", (Jsonb({"type": "x"}), task_id))

    database.execute(task_queries.RETRY, {"ids": [task_id], "kind_attempts": [3]})

    row = database.execute(
        """SELECT status, attempt, max_attempts, ttl, expires_at, run_at, cancel_requested_at, finished_at, purge_at, error
           FROM tasks JOIN task_payloads ON task_id = id WHERE id = %s""",
        (task_id,),
    ).fetchone()
    assert row == ("queued", 3, 6, None, None, None, None, None, None, None)
