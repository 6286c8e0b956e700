"""Tasks and files past their retention are erased, except those that a live task reads."""

from __future__ import annotations

from pathlib import Path
from uuid import UUID, uuid4

from shared.contracts.platform.ping import PingResult
from tests.conftest import Api
from tests.workers.conftest import Bench, Tasks
from tests.workers.handlers.maintenance.conftest import Chores


def test_a_task_past_its_retention_is_erased_and_leaves_a_tombstone(tasks: Tasks, bench: Bench, chores: Chores) -> None:
    task_id, file_id = chores.make_done(keep_for=0)
    kept_id, kept_file = chores.make_done(keep_for=600)
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

    assert chores.do("maintenance.purge") == {"tasks": 1, "files": 0}

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
    assert len(chores.objects()) == 1
    assert tasks.get(kept_id).status == "succeeded"
    assert tasks.connection.execute("SELECT id FROM files").fetchone().id == kept_file
    assert tasks.status(live) == "queued"


def test_a_purged_task_and_its_artifact_are_410_for_their_owner_only(
    api: Api, tasks: Tasks, bench: Bench, chores: Chores
) -> None:
    owner, other = api.client("owner", "operator"), api.client("other")
    task_id = UUID(owner.post("/tasks", json={"kind": "platform.ping", "keep_for": 0}).json()["id"])
    bench.handlers["platform.ping"] = lambda params, context: PingResult(echo=None)
    bench.do(task_id)
    assert owner.get(f"/tasks/{task_id}").status_code == 200

    chores.do("maintenance.purge")

    assert owner.get(f"/tasks/{task_id}").status_code == 410
    assert other.get(f"/tasks/{task_id}").status_code == 404


def test_an_artifact_that_a_live_task_reads_is_kept_with_its_task(tasks: Tasks, bench: Bench, chores: Chores) -> None:
    task_id, file_id = chores.make_done(keep_for=0)
    reader = tasks.submit_one("files.inspect", params={"file_id": file_id})
    tasks.connection.execute(
        "INSERT INTO task_files (task_id, file_id, role) VALUES (%s, %s, 'input')", (reader, file_id)
    )

    assert chores.do("maintenance.purge") == {"tasks": 0, "files": 0}
    assert tasks.status(task_id) == "succeeded"
    assert len(chores.objects()) == 1

    tasks.cancel(reader)
    assert chores.do("maintenance.purge") == {"tasks": 1, "files": 0}
    assert chores.objects() == set()


def test_an_expired_upload_is_erased_unless_a_live_task_reads_it(
    tasks: Tasks, bench: Bench, chores: Chores, tmp_path: Path
) -> None:
    gone, _ = chores.upload(tmp_path, "-1 s")
    read, read_key = chores.upload(tmp_path, "-1 s")
    _, kept_key = chores.upload(tmp_path, "1 h")
    reader = tasks.submit_one("files.inspect", params={"file_id": read})
    tasks.connection.execute("INSERT INTO task_files (task_id, file_id, role) VALUES (%s, %s, 'input')", (reader, read))

    assert chores.do("maintenance.purge") == {"tasks": 0, "files": 1}

    assert chores.objects() == {read_key, kept_key}
    assert [row.id for row in tasks.connection.execute("SELECT id FROM tombstones").fetchall()] == [gone]


def test_a_purge_repeats_until_nothing_is_left_to_purge(tasks: Tasks, chores: Chores) -> None:
    for task_id in tasks.submit(count=450, keep_for=0):
        tasks.cancel(task_id)

    assert chores.do("maintenance.purge") == {"tasks": 450, "files": 0}


def test_two_purges_at_once_erase_each_task_once(tasks: Tasks, bench: Bench, chores: Chores) -> None:
    chores.load()
    for task_id in tasks.submit(count=300, keep_for=0):
        tasks.cancel(task_id)
    first, second = bench.claim(*tasks.submit("maintenance.purge", count=2, keep_for=600))

    threads = [bench.start(first), bench.start(second)]
    for thread in threads:
        thread.join(timeout=20)

    results = [tasks.get(attempt.task.id).result["tasks"] for attempt in (first, second)]
    assert sum(results) == 300


def test_a_workflow_is_erased_with_its_last_task_and_none_before_it_is_finished(
    api: Api, bench: Bench, chores: Chores
) -> None:
    owner, other = api.client("owner", "operator"), api.client("other")
    steps = [{"name": name, "kind": "platform.ping", "keep_for": 0} for name in ("first", "last")]
    workflow = owner.post("/workflows", json={"steps": [steps[0], {**steps[1], "after": ["first"]}]}).json()
    bench.handlers["platform.ping"] = lambda params, context: PingResult(echo=None)
    first, last = (UUID(step["task_id"]) for step in workflow["steps"])
    bench.do(first)
    assert chores.do("maintenance.purge") == {"tasks": 0, "files": 0}

    bench.do(last)

    assert chores.do("maintenance.purge") == {"tasks": 2, "files": 0}
    assert owner.get(workflow["links"]["self"]).status_code == 410
    assert other.get(workflow["links"]["self"]).status_code == 404
