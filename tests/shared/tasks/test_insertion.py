"""Requests insert tasks by `hot_tasks`, and functions of the database by `taskmill_insert_tasks`: both store the same."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import orjson
import psycopg
import pytest
from psycopg.rows import dict_row

from shared.identifiers import new_id
from shared.queries import hot_tasks
from shared.settings import Settings
from shared.tasks.submission import NewTask, submission_document

ONLY_OF_REQUESTS = {"idempotency_key", "fingerprint", "unique_for", "rerun_of", "params_digest"}
"""The fields that no task has which the database inserts."""
ASSIGNED = {"id", "turn", "created_at", "version"}
"""The columns that differ between any two tasks."""
INSERT_FILE = """
INSERT INTO files (id, organization_id, owner_id, name, media_type, size, sha256, origin, storage_key)
VALUES (%s, %s, %s, 'a.txt', 'text/plain', 1, sha256('a'), 'upload', %s)"""
OWNER = new_id()

Row = dict[str, Any]


@pytest.fixture
def connection(settings: Settings) -> Iterator[psycopg.Connection[Row]]:
    with psycopg.connect(settings.database_url, row_factory=dict_row) as connection:
        yield connection


@pytest.fixture
def file_ids(connection: psycopg.Connection[Row]) -> list[UUID]:
    ids = [new_id(), new_id()]
    for file_id in ids:
        connection.execute(INSERT_FILE, [file_id, OWNER, OWNER, str(file_id)])
    return ids


def make_full_task(file_ids: list[UUID]) -> NewTask:
    """Return a task in which every field has a value that is not its default."""
    return NewTask(
        kind="files.inspect",
        kind_version=3,
        queue="reports",
        status="queued",
        organization_id=OWNER,
        owner_id=OWNER,
        max_attempts=7,
        timeout_seconds=123,
        keep_seconds=4567,
        params=b'{"a":1}',
        api_key_id=new_id(),
        priority=8,
        ttl=3600,
        batch_id=new_id(),
        parent_id=new_id(),
        schedule_id=new_id(),
        traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        request_id="a-request",
        tags=["one", 'a "quoted" \\ tag'],
        metadata={"key": "value"},
        files=file_ids[::-1],
        key_limits={"concurrency": {"key": "a", "limit": 2}},
        backoff={"base": 2.0, "factor": 3.0, "max": 60.0},
        follow_up={"webhook_url": "https://example.com/hook", "webhook_secret": "sealed", "notify": {"on": ["failed"]}},
    )


def find_fields_left_at_their_default(task: NewTask) -> set[str]:
    return {
        field.name
        for field in dataclasses.fields(task)
        if field.default is not dataclasses.MISSING and getattr(task, field.name) == field.default
    }


def insert_by_request(connection: psycopg.Connection[Row], task: NewTask) -> UUID:
    connection.execute(hot_tasks.SUBMIT_KEYED, {"document": submission_document([task])})
    return task.id


def insert_by_function(connection: psycopg.Connection[Row], task: NewTask) -> UUID:
    (row,) = orjson.loads(submission_document([task]))
    row["task_id"] = str(new_id())
    connection.execute("SELECT taskmill_insert_tasks(%s)", [orjson.dumps([row]).decode()])
    return UUID(row["task_id"])


def read_stored(connection: psycopg.Connection[Row], task_id: UUID) -> dict[str, list[Row]]:
    """Return the rows of a task in every table that a submission writes."""
    tables = {"tasks": "id", "task_payloads": "task_id", "task_events": "task_id", "task_files": "task_id"}
    found = {}
    for table, column in {**tables, "task_follow_ups": "task_id"}.items():
        rows = connection.execute(f"SELECT * FROM {table} WHERE {column} = %s ORDER BY 1, 2", [task_id]).fetchall()
        hidden = ASSIGNED if table == "tasks" else {column, "at", "xid"}
        found[table] = [{name: value for name, value in row.items() if name not in hidden} for row in rows]
    return found


def test_both_ways_store_the_same_rows_for_a_task_with_every_option(
    connection: psycopg.Connection[Row], file_ids: list[UUID]
) -> None:
    task = make_full_task(file_ids)

    by_request = read_stored(connection, insert_by_request(connection, task))
    by_function = read_stored(connection, insert_by_function(connection, task))

    assert find_fields_left_at_their_default(task) == {"run_at", "delay", *ONLY_OF_REQUESTS}
    assert by_function == by_request
    assert {table: len(rows) for table, rows in by_request.items()} == {
        "tasks": 1,
        "task_payloads": 1,
        "task_events": 1,
        "task_files": 2,
        "task_follow_ups": 1,
    }


@pytest.mark.parametrize(
    "when", [{"run_at": datetime(2030, 1, 1, tzinfo=UTC)}, {"delay": 90.0}], ids=["run_at", "delay"]
)
def test_both_ways_store_the_same_rows_for_a_scheduled_task(
    connection: psycopg.Connection[Row], when: dict[str, Any]
) -> None:
    task = dataclasses.replace(make_full_task([]), status="scheduled", files=[], follow_up=None, **when)

    by_request = read_stored(connection, insert_by_request(connection, task))
    by_function = read_stored(connection, insert_by_function(connection, task))

    assert by_request["tasks"][0]["run_at"] is not None
    assert by_function == by_request


def test_both_ways_notify_the_relay_of_a_due_task(settings: Settings) -> None:
    with (
        psycopg.connect(settings.database_url, autocommit=True, row_factory=dict_row) as connection,
        psycopg.connect(settings.database_url, autocommit=True) as listening,
    ):
        listening.execute(f"LISTEN {hot_tasks.DUE_CHANNEL}")
        for insert in (insert_by_request, insert_by_function):
            insert(connection, dataclasses.replace(make_full_task([]), files=[]))

            assert [notice.payload for notice in listening.notifies(timeout=60, stop_after=1)] == ["reports"]
