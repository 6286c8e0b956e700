"""Thousands of tasks are cancelled at one request, although the worker that does it is killed in the middle."""

from __future__ import annotations

import psycopg

from shared.verification import verify
from tests.conftest import Api, Eventually, Parts

TASKS = 5000
BATCH = 1000
EMAIL = {"kind": "email.send", "params": {"to": ["ada@example.com"], "text": "x"}}
KILLED_AFTER_TEN_STEPS = {"TASKMILL_KILL_POINT": "after-bulk-step:10", "TASKMILL_ENVIRONMENT": "development"}


def test_five_thousand_tasks_are_cancelled_once_over_a_killed_worker(
    api: Api, parts: Parts, eventually: Eventually
) -> None:
    client = api.client("someone")
    for _ in range(TASKS // BATCH):
        assert client.post("/tasks/batch", json={"tasks": [EMAIL] * BATCH}).status_code == 202
    parts.start("relay")
    killed = parts.start("worker", "--queues", "maintenance", "--concurrency", "1", environment=KILLED_AFTER_TEN_STEPS)

    answer = client.post("/tasks/bulk", json={"action": "cancel", "filter": {"kind": "email.send"}})
    later = client.post("/emails", json={"to": ["ada@example.com"], "text": "later"}).json()["id"]
    eventually(lambda: killed.poll() is not None)
    halfway = client.get("/tasks?status=cancelled", headers={"Accept": "application/x-ndjson"}).content.count(b"\n")
    parts.start_worker("maintenance", concurrency=1)
    task = eventually(lambda: done if (done := client.get(answer.headers["location"]).json())["done"] else None)

    assert answer.json()["params"]["count"] == TASKS
    assert halfway == 10 * 200
    assert (task["status"], task["result"]) == ("succeeded", {"changed": TASKS, "refused": {}}), task
    assert task["attempt"] == 2
    assert client.get(f"/tasks/{later}").json()["status"] == "queued"
    with psycopg.connect(parts.settings.database_url) as connection:
        histories = connection.execute(
            "SELECT task.status, task.version, count(*) FROM tasks AS task WHERE task.kind = 'email.send' GROUP BY 1, 2"
        ).fetchall()
    assert sorted(histories) == [("cancelled", 2, TASKS), ("queued", 1, 1)]
    report = verify(parts.settings)
    assert report.sound, report.describe()
