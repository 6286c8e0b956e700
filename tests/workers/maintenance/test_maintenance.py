"""What the platform's chores erase, what they leave, and what is told of what they erased."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from shared.contracts.platform.ping import PingResult
from shared.object_store import new_object_key
from workers.maintenance import delete_orphans, drop_old_rows, purge

HANDLERS = {
    "maintenance.purge": purge.handle,
    "maintenance.delete_orphans": delete_orphans.handle,
    "maintenance.drop_old_rows": drop_old_rows.handle,
}


@pytest.fixture
def do(tasks: Any, bench: Any) -> Any:
    """Do a chore as a task, and give its result."""
    bench.handlers.update(HANDLERS)

    def do(kind: str) -> dict[str, Any]:
        task_id = tasks.submit_one(kind, keep_for=86_400)
        bench.do(task_id)
        row = tasks.get(task_id)
        assert row.status == "succeeded", row.error
        return dict(row.result)

    return do


def _make_done(tasks: Any, bench: Any, **options: Any) -> tuple[UUID, UUID]:
    """A done task with one artifact: give the ids of both."""

    def handle(params: Any, context: Any) -> PingResult:
        context.scratch.mkdir(parents=True, exist_ok=True)
        (context.scratch / "a.txt").write_text("made")
        context.add_artifact(context.scratch / "a.txt", "a.txt", "text/plain")
        return PingResult(echo=None)

    bench.handlers["platform.ping"] = handle
    task_id = tasks.submit_one(**options)
    bench.do(task_id)
    row = tasks.connection.execute("SELECT id FROM files WHERE task_id = %s", (task_id,)).fetchone()
    return task_id, row.id


def _objects(bench: Any) -> set[str]:
    return {stored.key for stored in bench.store.list_objects(datetime.now(UTC) + timedelta(days=1))}


def _count(tasks: Any, table: str) -> int:
    return int(tasks.connection.execute(f"SELECT count(*) AS n FROM {table}").fetchone().n)


def test_what_is_past_its_keep_is_erased_whole_and_leaves_a_tombstone(tasks: Any, bench: Any, do: Any) -> None:
    task_id, file_id = _make_done(tasks, bench, keep_for=0)
    kept_id, kept_file = _make_done(tasks, bench, keep_for=600)
    live = tasks.submit_one()
    intent = uuid4()
    tasks.connection.execute(
        "INSERT INTO email_intents (id, task_id, attempt, message_id, recipients) VALUES (%s, %s, 1, 'm', '{a@b}')",
        (intent, task_id),
    )
    tasks.connection.execute(
        "INSERT INTO email_receipts (intent_id, recipient, task_id, status, code, reply)"
        " VALUES (%s, 'a@b', %s, 'accepted', 250, 'OK')",
        (intent, task_id),
    )
    tasks.connection.execute(
        "INSERT INTO unique_tasks (owner_id, kind, params_sha256, task_id) VALUES (%s, 'x', '\\x00', %s)",
        (uuid4(), task_id),
    )

    assert do("maintenance.purge") == {"tasks": 1, "files": 0}

    for table, column in (
        ("tasks", "id"),
        ("task_payloads", "task_id"),
        ("task_events", "task_id"),
        ("task_files", "task_id"),
        ("files", "task_id"),
        ("unique_tasks", "task_id"),
        ("email_intents", "task_id"),
        ("email_receipts", "task_id"),
    ):
        row = tasks.connection.execute(f"SELECT count(*) AS n FROM {table} WHERE {column} = %s", (task_id,)).fetchone()
        assert row.n == 0, table
    buried = tasks.connection.execute("SELECT id, subject, organization_id FROM tombstones").fetchall()
    assert {(row.id, row.subject) for row in buried} == {(task_id, "task"), (file_id, "file")}
    assert len(_objects(bench)) == 1
    assert tasks.get(kept_id).status == "succeeded"
    assert tasks.connection.execute("SELECT id FROM files").fetchone().id == kept_file
    assert tasks.status(live) == "queued"


def test_a_purged_task_and_its_artifact_are_told_as_gone_to_their_owner_only(
    api: Any, tasks: Any, bench: Any, do: Any
) -> None:
    owner, other = api.client("owner", "operator"), api.client("other")
    task_id = UUID(owner.post("/tasks", json={"kind": "platform.ping", "keep_for": 0}).json()["id"])
    bench.handlers["platform.ping"] = lambda params, context: PingResult(echo=None)
    bench.do(task_id)
    assert owner.get(f"/tasks/{task_id}").status_code == 200

    do("maintenance.purge")

    assert owner.get(f"/tasks/{task_id}").status_code == 410
    assert other.get(f"/tasks/{task_id}").status_code == 404


def test_an_artifact_that_a_live_task_reads_survives_with_its_task(tasks: Any, bench: Any, do: Any) -> None:
    task_id, file_id = _make_done(tasks, bench, keep_for=0)
    reader = tasks.submit_one("files.inspect", params={"file_id": file_id})
    tasks.connection.execute(
        "INSERT INTO task_files (task_id, file_id, role) VALUES (%s, %s, 'input')", (reader, file_id)
    )

    assert do("maintenance.purge") == {"tasks": 0, "files": 0}
    assert tasks.status(task_id) == "succeeded"
    assert len(_objects(bench)) == 1

    tasks.cancel(reader)
    assert do("maintenance.purge") == {"tasks": 1, "files": 0}
    assert _objects(bench) == set()


def _upload(tasks: Any, bench: Any, tmp_path: Path, expires: str) -> tuple[UUID, str]:
    path, key, file_id = tmp_path / uuid4().hex, new_object_key(), uuid4()
    path.write_bytes(b"uploaded")
    bench.store.put_file(key, path)
    tasks.connection.execute(
        "INSERT INTO files (id, organization_id, owner_id, name, media_type, size, sha256, origin, storage_key, expires_at)"
        " VALUES (%s, %s, %s, 'a', 'text/plain', 8, sha256('a'), 'upload', %s, now() + %s::interval)",
        (file_id, file_id, file_id, key, expires),
    )
    return file_id, key


def test_an_upload_past_its_keep_is_erased_unless_a_live_task_reads_it(
    tasks: Any, bench: Any, do: Any, tmp_path: Path
) -> None:
    gone, _ = _upload(tasks, bench, tmp_path, "-1 s")
    read, read_key = _upload(tasks, bench, tmp_path, "-1 s")
    _, kept_key = _upload(tasks, bench, tmp_path, "1 h")
    reader = tasks.submit_one("files.inspect", params={"file_id": read})
    tasks.connection.execute("INSERT INTO task_files (task_id, file_id, role) VALUES (%s, %s, 'input')", (reader, read))

    assert do("maintenance.purge") == {"tasks": 0, "files": 1}

    assert _objects(bench) == {read_key, kept_key}
    assert [row.id for row in tasks.connection.execute("SELECT id FROM tombstones").fetchall()] == [gone]


def test_more_than_one_round_is_purged(tasks: Any, do: Any) -> None:
    for task_id in tasks.submit(count=450, keep_for=0):
        tasks.cancel(task_id)

    assert do("maintenance.purge") == {"tasks": 450, "files": 0}


def test_two_purges_at_once_erase_each_task_once(tasks: Any, bench: Any) -> None:
    bench.handlers.update(HANDLERS)
    for task_id in tasks.submit(count=300, keep_for=0):
        tasks.cancel(task_id)
    first, second = bench.claim(*tasks.submit("maintenance.purge", count=2, keep_for=600))

    threads = [bench.start(first), bench.start(second)]
    for thread in threads:
        thread.join(timeout=20)

    results = [tasks.get(attempt.task.id).result["tasks"] for attempt in (first, second)]
    assert sum(results) == 300


def _age(bench: Any, key: str, hours: float) -> None:
    then = datetime.now(UTC) - timedelta(hours=hours)
    path = bench.store.local_path(key)
    os.utime(path, (then.timestamp(), then.timestamp()))


def test_orphans_older_than_a_day_are_deleted_and_nothing_else(tasks: Any, bench: Any, do: Any, tmp_path: Path) -> None:
    keys = {}
    for name, hours in {"old": 25, "young": 23, "known": 0}.items():
        path = tmp_path / name
        path.write_bytes(b"x")
        if name == "known":
            _, keys[name] = _upload(tasks, bench, tmp_path, "1 h")
            _age(bench, keys[name], 48)
        else:
            keys[name] = new_object_key()
            bench.store.put_file(keys[name], path)
            _age(bench, keys[name], hours)

    assert do("maintenance.delete_orphans") == {"objects": 1}
    assert _objects(bench) == {keys["young"], keys["known"]}


def test_old_keys_tombstones_and_slots_are_dropped_and_younger_ones_kept(tasks: Any, do: Any) -> None:
    schedule = uuid4()
    tasks.connection.execute(
        "INSERT INTO schedules (id, name, kind, params, every_seconds) VALUES (%s, 'x', 'a.b', '{}', 60)", (schedule,)
    )
    for age in ("1 hour", "23 hours", "25 hours", "6 days", "8 days", "29 days", "31 days"):
        tasks.connection.execute(
            "INSERT INTO idempotency_keys (owner_id, key, subject_id, status_code, created_at)"
            " VALUES (%s, 'k', %s, 202, now() - %s::interval)",
            (uuid4(), uuid4(), age),
        )
        tasks.connection.execute(
            "INSERT INTO tombstones (id, subject, organization_id, owner_id, purged_at)"
            " VALUES (%s, 'task', %s, %s, now() - %s::interval)",
            (uuid4(), uuid4(), uuid4(), age),
        )
        tasks.connection.execute(
            "INSERT INTO schedule_slots (schedule_id, slot, task_id) VALUES (%s, now() - %s::interval, %s)",
            (schedule, age, uuid4()),
        )

    assert do("maintenance.drop_old_rows") == {"idempotency_keys": 5, "tombstones": 1, "slots": 3}

    assert (_count(tasks, "idempotency_keys"), _count(tasks, "tombstones"), _count(tasks, "schedule_slots")) == (
        2,
        6,
        4,
    )
