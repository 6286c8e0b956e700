"""Batches: tasks that are submitted, followed and cancelled together."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx2
import psycopg
import pytest
from sqlalchemy.dialects.postgresql.psycopg import dialect

from shared.identifiers import new_id
from shared.queries.batches import count_batch
from shared.queries.tasks import list_page
from shared.settings import Settings
from shared.tasks.filters import TaskFilter
from tests.api.conftest import ErrorsOf, ManualWorker
from tests.conftest import Eventually

PING = {"kind": "platform.ping"}
BACKOFF = {"backoff": {"first_seconds": 1.0, "longest_seconds": 2.0}}


def submit(client: httpx2.Client, count: int = 3, **options: object) -> dict[str, Any]:
    answer = client.post("/tasks/batch", json={"tasks": [{**PING, **options}] * count})
    assert answer.status_code == 202, answer.text
    batch: dict[str, Any] = answer.json()
    return batch


def test_a_batch_is_answered_with_all_its_tasks_in_their_order(operator: httpx2.Client) -> None:
    tasks = [{**PING, "priority": n, "params": {"echo": str(n)}} for n in range(5)]

    answer = operator.post("/tasks/batch", json={"tasks": tasks})

    batch = answer.json()
    assert (answer.status_code, list(batch)) == (202, ["batch_id", "tasks"])
    assert answer.headers["location"] == f"/batches/{batch['batch_id']}"
    assert answer.headers["retry-after"]
    assert [task["priority"] for task in batch["tasks"]] == [0, 1, 2, 3, 4]
    assert {task["batch_id"] for task in batch["tasks"]} == {batch["batch_id"]}
    for task in batch["tasks"]:
        assert operator.get(task["links"]["self"]).json() == task


def test_one_invalid_task_keeps_the_whole_batch_from_being_stored(
    operator: httpx2.Client, errors_of: ErrorsOf, manual_worker: ManualWorker
) -> None:
    before = manual_worker.count("SELECT count(*) FROM tasks")
    tasks = [PING, {**PING, "params": {"a/b": 1, "sleep_ms": -1}}, "x", {**PING, "prio": 1}, None, []]

    found = errors_of(operator.post("/tasks/batch", json={"tasks": tasks, "x/y": 1}))

    assert set(found) == {
        *(
            "/x~1y",
            "/tasks/1/params/a~1b",
            "/tasks/1/params/sleep_ms",
            "/tasks/2",
            "/tasks/3/prio",
            "/tasks/4",
            "/tasks/5",
        ),
    }
    assert manual_worker.count("SELECT count(*) FROM tasks") == before


def test_a_task_that_the_database_refuses_keeps_all_from_being_stored(
    operator: httpx2.Client, manual_worker: ManualWorker, data: Path
) -> None:
    with (data / "coffee.png").open("rb") as file:
        uploaded = operator.post("/files", files={"file": ("coffee.png", file)}).json()
    manual_worker.succeed(uploaded["id"])
    inspect = {"kind": "files.inspect", "params": {"file_id": uploaded["params"]["file_id"]}}
    assert operator.post("/tasks/batch?validate_only=true", json={"tasks": [PING, inspect]}).status_code == 200
    operator.delete(f"/files/{uploaded['params']['file_id']}")
    before = manual_worker.count("SELECT count(*) FROM tasks")

    answer = operator.post("/tasks/batch", json={"tasks": [PING, inspect]})

    assert answer.status_code == 422
    assert answer.json()["errors"][0]["pointer"] == "/tasks/1/params/file_id"
    assert manual_worker.count("SELECT count(*) FROM tasks") == before


@pytest.mark.parametrize("count", [0, 1001])
def test_a_batch_has_one_to_a_thousand_tasks(operator: httpx2.Client, errors_of: ErrorsOf, count: int) -> None:
    assert list(errors_of(operator.post("/tasks/batch", json={"tasks": [PING] * count}))) == ["/tasks"]


def test_a_batch_of_a_thousand_tasks_is_accepted(operator: httpx2.Client) -> None:
    batch = submit(operator, 1000)

    assert len({task["id"] for task in batch["tasks"]}) == 1000
    assert operator.get(f"/batches/{batch['batch_id']}").json()["total"] == 1000


@pytest.mark.parametrize("tasks", [None, {}, "x", 5])
def test_tasks_must_be_a_list(operator: httpx2.Client, errors_of: ErrorsOf, tasks: object) -> None:
    assert list(errors_of(operator.post("/tasks/batch", json={"tasks": tasks}))) == ["/tasks"]
    assert list(errors_of(operator.post("/tasks/batch", json={}))) == ["/tasks"]


def test_a_batch_counts_its_tasks_by_status(operator: httpx2.Client, manual_worker: ManualWorker) -> None:
    batch = submit(operator, 4)
    ids = [task["id"] for task in batch["tasks"]]
    manual_worker.succeed(ids[0])
    manual_worker.fail(ids[1])
    manual_worker.claim(ids[2])

    answer = operator.get(f"/batches/{batch['batch_id']}")

    assert list(answer.json()) == ["id", "total", "counts", "created_at", "finished_at"]
    assert answer.json()["id"] == batch["batch_id"]
    assert answer.json()["total"] == 4
    assert answer.json()["counts"] == {"succeeded": 1, "failed": 1, "running": 1, "queued": 1}
    assert answer.json()["finished_at"] is None


def test_a_batch_is_finished_when_its_last_task_is(operator: httpx2.Client, manual_worker: ManualWorker) -> None:
    batch = submit(operator, 2)
    for task in batch["tasks"]:
        manual_worker.succeed(task["id"])

    seen = operator.get(f"/batches/{batch['batch_id']}").json()

    last = operator.get(f"/tasks/{batch['tasks'][-1]['id']}").json()
    assert seen["finished_at"] == last["finished_at"]
    assert datetime.fromisoformat(seen["created_at"]) <= datetime.fromisoformat(seen["finished_at"])


def test_cancelling_a_batch_cancels_what_is_left(operator: httpx2.Client, manual_worker: ManualWorker) -> None:
    batch = submit(operator, 4)
    ids = [task["id"] for task in batch["tasks"]]
    manual_worker.succeed(ids[0])
    manual_worker.claim(ids[1])

    answer = operator.post(f"/batches/{batch['batch_id']}/cancel")
    again = operator.post(f"/batches/{batch['batch_id']}/cancel")

    assert (answer.status_code, again.status_code) == (202, 202)
    assert answer.json()["counts"] == again.json()["counts"] == {"succeeded": 1, "running": 1, "cancelled": 2}
    assert operator.get(f"/tasks/{ids[1]}").json()["cancel_requested_at"]
    assert not manual_worker.claim(ids[2])


def test_cancelling_a_batch_does_not_deadlock_with_claims(
    operator: httpx2.Client, manual_worker: ManualWorker, module_settings: Settings, eventually: Eventually
) -> None:
    """A claim has locked the first task when the cancel begins, and the row of the second task comes first on disk."""
    batch = submit(operator, 2)
    first, second = (task["id"] for task in batch["tasks"])
    manual_worker.connection.execute("UPDATE tasks SET priority = 6 WHERE id = %s", [first])
    lock = "SELECT FROM tasks WHERE id = %s FOR UPDATE"
    waits = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'taskmill-api' AND wait_event_type = 'Lock'"

    with psycopg.connect(module_settings.database_url) as claim, ThreadPoolExecutor(1) as thread:
        claim.execute(lock, [first])
        cancel = thread.submit(operator.post, f"/batches/{batch['batch_id']}/cancel")
        eventually(lambda: manual_worker.count(waits))
        claim.execute(lock, [second])
        claim.commit()

        assert cancel.result().status_code == 202


def test_cancelling_a_finished_batch_changes_nothing(operator: httpx2.Client, manual_worker: ManualWorker) -> None:
    batch = submit(operator, 1)
    manual_worker.succeed(batch["tasks"][0]["id"])

    answer = operator.post(f"/batches/{batch['batch_id']}/cancel")

    assert (answer.status_code, answer.json()["counts"]) == (202, {"succeeded": 1})


def test_a_missing_batch_is_not_found(operator: httpx2.Client) -> None:
    for method, path in [("GET", f"/batches/{new_id()}"), ("POST", f"/batches/{new_id()}/cancel")]:
        answer = operator.request(method, path)
        assert (answer.status_code, answer.json()["type"]) == (404, "/problems/not-found")
    assert operator.get("/batches/x").json()["errors"][0]["pointer"] == "path:batch_id"


@pytest.mark.parametrize("statement", ["count", "list"])
def test_a_foreign_batch_is_not_read_so_that_it_takes_no_longer_than_none(
    client: httpx2.Client, manual_worker: ManualWorker, statement: str
) -> None:
    email = {"kind": "email.send", "params": {"to": ["ada@example.com"], "text": "x"}}
    answer = client.post("/tasks/batch", json={"tasks": [email] * 50})
    batch_id, stranger = UUID(answer.json()["batch_id"]), new_id()
    query = (
        count_batch(batch_id, stranger)
        if statement == "count"
        else list_page(stranger, TaskFilter(batch_id=batch_id), before_id=None, limit=50)
    )

    text = query.compile(dialect=dialect(), compile_kwargs={"literal_binds": True})
    plan = manual_worker.connection.execute(f"EXPLAIN (ANALYZE) {text}").fetchall()  # type: ignore[call-overload]

    assert [
        line for (line,) in plan if "on tasks " in line and "never executed" not in line and "first" not in line
    ] == []


def test_the_follow_up_of_a_batch_is_submitted_when_its_last_task_ends(
    operator: httpx2.Client, manual_worker: ManualWorker
) -> None:
    tasks = {"tasks": [PING] * 2, "on_finished": {**PING, "params": {"echo": "all done"}, "tags": ["last"], **BACKOFF}}
    batch = operator.post("/tasks/batch", json=tasks).json()
    path = f"/batches/{batch['batch_id']}"
    assert operator.get(path).json()["on_finished"] == {"kind": "platform.ping", "task_id": None}

    operator.post(f"/tasks/{batch['tasks'][0]['id']}/cancel")
    assert operator.get(path).json()["on_finished"]["task_id"] is None
    operator.post(f"/tasks/{batch['tasks'][1]['id']}/cancel")

    follow_up = operator.get(path).json()["on_finished"]["task_id"]
    task = operator.get(f"/tasks/{follow_up}").json()
    assert (task["status"], task["params"]["echo"], task["tags"]) == ("queued", "all done", ["last"])
    assert task["batch_id"] is None
    (backoff,) = (
        manual_worker.connection.execute("SELECT backoff FROM tasks WHERE id = %s", (follow_up,)).fetchone() or ()
    )
    assert backoff == BACKOFF["backoff"]


def test_an_invalid_follow_up_keeps_the_whole_batch_from_being_stored(
    operator: httpx2.Client, errors_of: ErrorsOf
) -> None:
    follow_ups: list[dict[str, Any]] = [{"kind": "no.such"}, {**PING, "unique_for": 5}, {**PING, "prio": 1}]

    found = [
        set(errors_of(operator.post("/tasks/batch", json={"tasks": [PING], "on_finished": follow_up})))
        for follow_up in follow_ups
    ]

    assert found == [{"/on_finished/kind"}, {"/on_finished/unique_for"}, {"/on_finished/prio"}]
