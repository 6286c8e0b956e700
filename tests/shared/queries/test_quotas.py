"""The database counts what organizations and callers use, and refuses what exceeds a quota, exactly also in parallel."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import orjson
import psycopg
import pytest

from cli.local_stack.postgres import PostgresServer
from shared.contracts.catalog import list_kinds
from shared.database.connections import make_engine
from shared.identifiers import new_id
from shared.queries import hot_tasks, usage
from shared.settings import Settings
from shared.tasks.options import TaskOptions
from shared.tasks.submission import PLATFORM_ID, NewTask, make_task, submission_document
from tests.conftest import new_database

Connection = psycopg.Connection[tuple[Any, ...]]
REFUSED = "23Q01"


@dataclass
class Owner:
    """An owner of tasks, on a database of this module."""

    url: str
    organization_id: UUID = field(default_factory=new_id)
    owner_id: UUID = field(default_factory=new_id)

    def connect(self) -> Connection:
        """Open a connection of its own, as another process has."""
        return psycopg.connect(self.url, autocommit=True)

    def limit(self, name: str, amount: int | None, *, scope: str = "organization", subject: UUID | None = None) -> None:
        """Set a limit of the organization, or of the caller."""
        own = self.organization_id if scope == "organization" else self.owner_id
        with self.connect() as connection:
            connection.execute(
                "INSERT INTO limits (subject_id, scope, name, amount) VALUES (%s, %s, %s, %s)",
                (subject or own, scope, name, amount),
            )

    def tasks(self, number: int, kind_name: str = "platform.ping", params: object = None) -> list[NewTask]:
        """Return new tasks, not stored yet."""
        kind = list_kinds()[kind_name]
        body = orjson.dumps(params or {})
        queue = "email" if kind_name == "email.send" else "files"
        return [
            make_task(kind_name, kind, body, queue, TaskOptions(), self.organization_id, self.owner_id)
            for _ in range(number)
        ]

    def submit(self, *tasks: NewTask, by: Connection | None = None) -> bool:
        """Insert tasks with one statement; return whether they were accepted."""
        connection = by or self.connect()
        try:
            connection.execute(hot_tasks.SUBMIT_KEYED, {"document": submission_document(tasks)})
        except psycopg.IntegrityError as error:
            assert error.sqlstate == REFUSED
            return False
        finally:
            if by is None:
                connection.close()
        return True

    def used(self) -> tuple[int, ...]:
        """Return how many tasks, emails and recipients are counted today."""
        with self.connect() as connection:
            row = connection.execute(
                "SELECT coalesce(sum(tasks), 0), coalesce(sum(emails), 0), coalesce(sum(recipients), 0) FROM usage_by_day"
                " WHERE organization_id = %s",
                (self.organization_id,),
            ).fetchone()
        assert row is not None
        return tuple(map(int, row))

    def stored(self) -> tuple[int, ...]:
        """Return how many bytes and files are counted."""
        with self.connect() as connection:
            row = connection.execute(
                "SELECT coalesce(sum(bytes), 0), coalesce(sum(files), 0) FROM stored_bytes WHERE organization_id = %s",
                (self.organization_id,),
            ).fetchone()
        assert row is not None
        return tuple(map(int, row))

    def end(self, task: NewTask, status: str = "cancelled") -> None:
        """End a task that has not started."""
        with self.connect() as connection:
            connection.execute(
                "UPDATE tasks SET status = %s, finished_at = now(), purge_at = now(), version = version + 1 WHERE id = %s",
                (status, task.id),
            )

    def store_file(self, size: int, origin: str = "upload") -> bool:
        """Insert the row of a file; return whether it was accepted."""
        with self.connect() as connection:
            try:
                connection.execute(
                    "INSERT INTO files (id, organization_id, owner_id, name, media_type, size, sha256, origin, task_id,"
                    " storage_key) VALUES (%s, %s, %s, 'a', 'text/plain', %s, %s, %s, %s, %s)",
                    (
                        *(new_id(), self.organization_id, self.owner_id, size, b"0" * 32, origin),
                        *(new_id() if origin == "task" else None, new_id().hex),
                    ),
                )
            except psycopg.IntegrityError as error:
                assert error.sqlstate == REFUSED
                return False
        return True


@pytest.fixture(scope="module")
def url(postgres_server: PostgresServer) -> Iterator[str]:
    with new_database(postgres_server) as url:
        yield url


@pytest.fixture
def owner(url: str) -> Owner:
    return Owner(url)


def test_fifty_parallel_submissions_at_a_quota_are_accepted_exactly_up_to_it(owner: Owner) -> None:
    owner.limit("tasks_per_day", 20)
    start = threading.Barrier(10)

    def submit(_: int) -> int:
        with owner.connect() as connection:
            start.wait(30)
            return sum(owner.submit(*owner.tasks(1), by=connection) for _ in range(5))

    with ThreadPoolExecutor(10) as threads:
        accepted = sum(threads.map(submit, range(10)))

    assert (accepted, owner.used()) == (20, (20, 0, 0))


def test_a_batch_that_exceeds_a_quota_is_refused_whole(owner: Owner) -> None:
    owner.limit("tasks_per_day", 3)

    assert not owner.submit(*owner.tasks(4))
    assert owner.submit(*owner.tasks(3))
    assert owner.used() == (3, 0, 0)


def test_an_idempotent_repeat_does_not_count_twice(owner: Owner) -> None:
    first, repeated = owner.tasks(2)
    for task in (first, repeated):
        task.idempotency_key, task.fingerprint = "the same", "00"

    assert owner.submit(first) and owner.submit(repeated)
    assert owner.used() == (1, 0, 0)


def test_tasks_of_the_platform_are_not_counted(url: str) -> None:
    platform = Owner(url, organization_id=PLATFORM_ID)

    assert platform.submit(*platform.tasks(2))
    assert platform.used() == (0, 0, 0)


def test_emails_and_their_recipients_are_counted_and_limited(owner: Owner) -> None:
    owner.limit("recipients_per_day", 5)
    owner.limit("emails_per_day", 3)
    three = {"to": ["a@example.com", "b@example.com"], "cc": ["c@example.com"], "text": "hello"}
    one = {"to": ["a@example.com"], "text": "hello"}

    assert owner.submit(*owner.tasks(1, "email.send", three))
    assert not owner.submit(*owner.tasks(1, "email.send", three))
    assert owner.submit(*owner.tasks(2, "email.send", one))
    assert not owner.submit(*owner.tasks(1, "email.send", one))
    assert owner.submit(*owner.tasks(1))
    assert owner.used() == (4, 3, 5)


def test_a_live_task_that_ends_makes_room_and_a_retry_takes_it(owner: Owner) -> None:
    owner.limit("live_tasks", 2)
    first, second, third, fourth = owner.tasks(4)

    assert owner.submit(first, second)
    assert not owner.submit(third)
    owner.end(first)
    assert owner.submit(third)
    owner.end(second)
    with owner.connect() as connection:
        connection.execute(
            "UPDATE tasks SET status = 'queued', finished_at = NULL, purge_at = NULL, version = version + 1 WHERE id = %s",
            (first.id,),
        )
    assert not owner.submit(fourth)


def test_a_caller_has_its_own_quota_within_that_of_the_organization(owner: Owner) -> None:
    colleague = Owner(owner.url, owner.organization_id)
    owner.limit("tasks_per_day", 3)
    owner.limit("tasks_per_day", 1, scope="caller")

    assert owner.submit(*owner.tasks(1))
    assert not owner.submit(*owner.tasks(1))
    assert colleague.submit(*colleague.tasks(2))
    assert not colleague.submit(*colleague.tasks(1))


def test_a_row_of_its_own_replaces_the_default_quota(postgres_server: PostgresServer) -> None:
    with new_database(postgres_server) as url:
        limited, free = Owner(url), Owner(url)
        limited.limit("tasks_per_day", 1, subject=UUID(int=0))
        free.limit("tasks_per_day", None)

        assert [limited.submit(*limited.tasks(2)), free.submit(*free.tasks(2))] == [False, True]


def test_stored_bytes_are_counted_down_when_files_are_deleted(owner: Owner) -> None:
    owner.limit("stored_bytes", 10)

    assert [owner.store_file(7), owner.store_file(4), owner.store_file(3)] == [True, False, True]
    assert owner.stored() == (10, 2)
    with owner.connect() as connection:
        connection.execute("DELETE FROM files WHERE organization_id = %s AND size = 7", (owner.organization_id,))
    assert owner.stored() == (3, 1)
    assert owner.store_file(7)


def test_an_artifact_may_exceed_the_stored_bytes_and_then_tasks_with_files_wait(owner: Owner) -> None:
    owner.limit("stored_bytes", 10)

    assert owner.store_file(20, origin="task")
    assert not owner.submit(*owner.tasks(1))
    assert owner.submit(*owner.tasks(1, "email.send", {"to": ["a@example.com"], "text": "x"}))
    assert not owner.store_file(1)


def test_a_warning_is_sent_once_a_day_from_80_percent_on(owner: Owner) -> None:
    owner.limit("tasks_per_day", 5)
    with owner.connect() as connection:
        connection.execute(
            "INSERT INTO webhook_endpoints (id, organization_id, owner_id, url, event_types, secret)"
            " VALUES (%s, %s, %s, 'https://example.com', ARRAY['quota.warning'], 'x')",
            (new_id(), owner.organization_id, owner.owner_id),
        )

        def list_warnings() -> list[Any]:
            found = connection.execute(
                "SELECT data FROM webhook_deliveries WHERE organization_id = %s", (owner.organization_id,)
            )
            return [row[0] for row in found]

        assert owner.submit(*owner.tasks(3)) and list_warnings() == []
        assert owner.submit(*owner.tasks(1)) and owner.submit(*owner.tasks(1))
        (warning,) = list_warnings()

    assert (warning["quota"], warning["scope"], warning["used"], warning["allowed"]) == (
        "tasks_per_day",
        "organization",
        4,
        5,
    )
    assert owner.used() == (5, 0, 0)


def test_adding_up_the_writers_changes_no_sum(owner: Owner) -> None:
    assert (
        owner.submit(*owner.tasks(2)) and owner.submit(*owner.tasks(1)) and owner.store_file(4) and owner.store_file(5)
    )
    engine = make_engine(Settings(database_url=owner.url), "test")
    with engine.begin() as connection:
        connection.exec_driver_sql("UPDATE usage_by_day SET day = day - 1")
        connection.execute(usage.add_up_days(1000))
        added = connection.execute(usage.add_up_stored_bytes(1000)).rowcount
        writers = connection.exec_driver_sql(
            "SELECT writer FROM usage_by_day UNION SELECT writer FROM stored_bytes"
        ).all()
    engine.dispose()

    assert added >= 2 and writers == [(0,)]
    assert owner.used() == (3, 0, 0) and owner.stored() == (9, 2)
