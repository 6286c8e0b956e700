"""The statements of maintenance on files, on a real Postgres."""

import os
from collections.abc import Iterator
from uuid import UUID

import pytest
from sqlalchemy import Connection, Engine, insert, select, text

from shared.database.connections import make_engine
from shared.identifiers import new_id
from shared.queries import files as queries
from shared.settings import Settings
from shared.tables.files import files
from shared.tables.tasks import task_files, tasks, tombstones


@pytest.fixture
def engine(settings: Settings) -> Iterator[Engine]:
    made = make_engine(settings, "test")
    yield made
    made.dispose()


@pytest.fixture
def connection(engine: Engine) -> Iterator[Connection]:
    with engine.connect() as made:
        yield made


def store(connection: Connection, expires_in: str | None = None, **values: object) -> UUID:
    file_id = new_id()
    row = {
        "id": file_id,
        "organization_id": new_id(),
        "owner_id": new_id(),
        "name": "a.txt",
        "media_type": "text/plain",
        "size": 1,
        "sha256": os.urandom(32),
        "origin": "upload",
        "storage_key": f"ab/{file_id.hex}",
    }
    connection.execute(insert(files).values(**row | values))
    if expires_in is not None:
        moment = text("UPDATE files SET expires_at = now() + CAST(:expires_in AS interval) WHERE id = :id")
        connection.execute(moment, {"expires_in": expires_in, "id": file_id})
    return file_id


def read_by(connection: Connection, file_id: UUID, role: str = "input") -> UUID:
    task_id = new_id()
    connection.execute(
        insert(tasks).values(
            id=task_id,
            kind="files.inspect",
            queue="files",
            status="queued",
            organization_id=new_id(),
            owner_id=new_id(),
            max_attempts=3,
            timeout_seconds=10,
            keep_seconds=10,
        )
    )
    connection.execute(insert(task_files).values(task_id=task_id, file_id=file_id, role=role))
    return task_id


def finish(connection: Connection, task_id: UUID) -> None:
    done = text("UPDATE tasks SET status = 'cancelled', finished_at = now(), purge_at = now() WHERE id = :id")
    connection.execute(done, {"id": task_id})


def test_expired_files_are_those_past_their_time_that_no_live_task_reads(connection: Connection) -> None:
    store(connection)
    store(connection, "1 day")
    read = store(connection, "-1 day")
    task_id = read_by(connection, read)
    expired = store(connection, "-1 hour")
    long_expired = store(connection, "-2 hours")
    made = store(connection, "-3 hours")
    read_by(connection, made, "artifact")

    assert [row.id for row in connection.execute(queries.lock_expired_files(10))] == [made, long_expired, expired]
    assert [row.id for row in connection.execute(queries.lock_expired_files(1))] == [made]
    finish(connection, task_id)
    assert read in [row.id for row in connection.execute(queries.lock_expired_files(10))]


def test_two_concurrent_purges_do_not_wait_for_each_other(engine: Engine, connection: Connection) -> None:
    one, two = store(connection, "-2 hours"), store(connection, "-1 hour")
    connection.commit()
    assert [row.id for row in connection.execute(queries.lock_expired_files(1))] == [one]
    with engine.begin() as other:
        assert [row.id for row in other.execute(queries.lock_expired_files(2))] == [two]


def test_a_file_that_a_task_began_to_read_meanwhile_is_not_unread(connection: Connection) -> None:
    free, read = store(connection), store(connection)
    read_by(connection, read)
    assert list(connection.execute(queries.list_unread([free, read])).scalars()) == [free]
    assert connection.scalar(queries.is_read_by_live_task(read)) is True
    assert connection.scalar(queries.is_read_by_live_task(free)) is False


def test_deleted_files_leave_tombstones_of_their_organization(connection: Connection) -> None:
    organization = new_id()
    one, two = store(connection, organization_id=organization), store(connection)
    read_by(connection, one)
    gone = {row.id: row.storage_key for row in connection.execute(queries.delete_files([one, two, new_id()]))}
    assert gone == {one: f"ab/{one.hex}", two: f"ab/{two.hex}"}
    assert list(connection.execute(queries.find_files([one, two]))) == []
    assert connection.execute(select(task_files)).all() == []
    assert {row.id for row in connection.execute(select(tombstones))} == {one, two}
    assert connection.scalar(queries.find_tombstone(one, organization)) is True
    assert connection.scalar(queries.find_tombstone(one, None)) is True
    assert connection.scalar(queries.find_tombstone(one, new_id())) is False
    assert list(connection.execute(queries.delete_files([one]))) == []


def test_storage_keys_of_files_are_distinguished_from_orphans(connection: Connection) -> None:
    file_id = store(connection)
    known = connection.execute(queries.list_known_keys([f"ab/{file_id.hex}", "ab/orphan"])).scalars()
    assert list(known) == [f"ab/{file_id.hex}"]
