"""The `data` of a webhook is what the route of its subject answers, field by field."""

from __future__ import annotations

from typing import Any

import httpx2
import pytest

from shared.database.connections import make_engine
from shared.identifiers import new_id
from shared.settings import Settings
from tests.api.conftest import ManualWorker
from tests.conftest import Api
from workers.beat_scheduler import QueueBounds, insert_due_tasks

PING = {"kind": "platform.ping"}
EMAIL = {"kind": "email.send", "params": {"to": ["ada@example.com"], "text": "x"}}
EVERY_TYPE = ["task.succeeded", "task.failed", "batch.finished", "schedule.failed", "workflow.finished"]


class Subject:
    """A client of an organization of its own with one endpoint, and the worker that a test controls."""

    def __init__(self, client: httpx2.Client, manual_worker: ManualWorker) -> None:
        self.client = client
        self.manual_worker = manual_worker
        endpoint = {"url": "https://127.0.0.1/hooks", "event_types": EVERY_TYPE}
        self.endpoint_id = client.post("/webhook-endpoints", json=endpoint).json()["id"]

    def submit(self, path: str, body: object) -> Any:
        answer = self.client.post(path, json=body)
        assert answer.status_code in {201, 202}, answer.text
        return answer.json()

    def get(self, path: str) -> Any:
        answer = self.client.get(path)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def sent(self, event_type: str) -> list[Any]:
        """Return the `data` of each webhook of a type, the oldest first."""
        rows = self.manual_worker.connection.execute(
            "SELECT data FROM webhook_deliveries WHERE endpoint_id = %s AND event_type = %s ORDER BY id",
            (self.endpoint_id, event_type),
        ).fetchall()
        return [row[0] for row in rows]


@pytest.fixture
def subject(served: Api, manual_worker: ManualWorker) -> Subject:
    return Subject(served.client(f"documents-{new_id().hex}"), manual_worker)


def test_the_webhook_of_a_task_has_the_task_without_its_params(subject: Subject) -> None:
    done = subject.submit("/tasks", {**EMAIL, "tags": ["a"], "metadata": {"b": "c"}})["id"]
    subject.manual_worker.fail(done)
    again = subject.submit(f"/tasks/{done}/rerun", {})["id"]
    subject.manual_worker.succeed(again)

    for event_type, task_id in (("task.failed", done), ("task.succeeded", again)):
        shown = subject.get(f"/tasks/{task_id}")
        del shown["params"]
        assert subject.sent(event_type) == [shown]


@pytest.mark.parametrize("on_finished", [None, EMAIL])
def test_the_webhook_of_a_batch_has_the_batch(subject: Subject, on_finished: object) -> None:
    body = {"tasks": [EMAIL, EMAIL]} | ({} if on_finished is None else {"on_finished": on_finished})
    batch = subject.submit("/tasks/batch", body)
    first, second = (task["id"] for task in batch["tasks"])
    subject.manual_worker.fail(first)
    subject.manual_worker.succeed(second)

    shown = subject.get(f"/batches/{batch['batch_id']}")

    assert ("on_finished" in shown) == (on_finished is not None)
    assert subject.sent("batch.finished") == [shown]


def test_the_webhook_of_a_workflow_has_the_workflow_with_its_steps(subject: Subject) -> None:
    steps = [
        {"name": "make", **EMAIL, "on_failure": "continue"},
        {"name": "each", **EMAIL, "for_each": {"$from": "make.artifacts"}, "after": ["last"]},
        {"name": "last", **EMAIL},
    ]
    workflow = subject.submit("/workflows", {"name": "w", "steps": steps})
    path = f"/workflows/{workflow['id']}"
    task_ids = {step["name"]: step["task_id"] for step in workflow["steps"]}
    subject.manual_worker.fail(task_ids["last"])
    subject.manual_worker.succeed(task_ids["make"])

    shown = subject.get(path)

    assert shown["done"]
    assert [step["name"] for step in shown["steps"]] == ["make", "each", "last"]
    assert subject.sent("workflow.finished") == [shown]


def test_the_webhook_of_a_step_for_each_element_counts_its_tasks(subject: Subject) -> None:
    steps = [
        {"name": "make", **EMAIL},
        {"name": "each", **EMAIL, "for_each": {"$from": "make.artifacts"}},
        {"name": "last", **EMAIL, "after": ["each"]},
    ]
    workflow = subject.submit("/workflows", {"steps": steps})
    for name in ("make", "last"):
        found = subject.get(f"/workflows/{workflow['id']}")
        subject.manual_worker.succeed(next(step["task_id"] for step in found["steps"] if step["name"] == name))

    (sent,) = subject.sent("workflow.finished")

    assert sent == subject.get(f"/workflows/{workflow['id']}")
    assert sent["steps"][1]["tasks"] == {"total": 0, "counts": {}}


@pytest.mark.parametrize(
    "task",
    [
        EMAIL,
        {
            **EMAIL,
            **{"priority": 7, "ttl": 60, "max_attempts": 2, "timeout": 30, "keep_for": 90, "tags": ["a"]},
            **{"metadata": {"b": "c"}, "backoff": {"first_seconds": 1, "longest_seconds": 2.5}},
            "webhook": {"url": "https://127.0.0.1/one"},
            "notify": {"email": ["ada@example.com"], "on": ["succeeded", "failed"]},
        },
        {"workflow": {"name": "w", "steps": [{"name": "one", **EMAIL}]}},
    ],
)
def test_the_webhook_of_a_schedule_has_the_schedule(
    subject: Subject, module_settings: Settings, task: dict[str, Any]
) -> None:
    rule = {
        "cron": "30 2 29 2 *",
        "timezone": "Europe/Berlin",
        "starts_at": "2020-01-01T00:00:00.5Z",
        "missed": "run_all",
    }
    schedule = subject.submit("/schedules", {"name": "s", **rule, **task})
    subject.client.post(f"/schedules/{schedule['id']}/run")
    connection = subject.manual_worker.connection
    connection.execute("UPDATE schedules SET next_at = '2020-01-02' WHERE id = %s", (schedule["id"],))
    engine = make_engine(module_settings, "test-beat")

    insert_due_tasks(engine, QueueBounds(max_queued_per_caller=1))

    engine.dispose()
    (sent,) = subject.sent("schedule.failed")
    assert sent == subject.get(f"/schedules/{schedule['id']}")
    assert len(sent["last_runs"]) == 1
    assert len(sent["next_times"]) == 5
    assert sent["last_error"]["type"] == "/problems/queue-full"
