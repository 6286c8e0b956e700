"""Each limit of a worker that a setting changes holds at its configured value, and not only at its default."""

from __future__ import annotations

from datetime import datetime

from tests.conftest import Api, Eventually, Parts


def test_a_worker_runs_no_more_attempts_at_a_time_than_configured(
    api: Api, parts: Parts, eventually: Eventually
) -> None:
    parts.settings = parts.settings.model_copy(update={"worker_concurrency": 1})
    parts.start("relay")
    parts.start("worker", "--queues", "files")
    operator = api.client("operator", "operator")
    task = {"kind": "platform.ping", "params": {"sleep_ms": 250}}
    answer = operator.post("/tasks/batch", json={"tasks": [task] * 4})
    assert answer.status_code == 202
    ids = [submitted["id"] for submitted in answer.json()["tasks"]]

    def find_done() -> list[dict[str, str]]:
        tasks = [operator.get(f"/tasks/{task_id}").json() for task_id in ids]
        return tasks if all(task["status"] == "succeeded" for task in tasks) else []

    finished = sorted(datetime.fromisoformat(task["finished_at"]) for task in eventually(find_done))

    # Three more follow the first, one after the other; two at a time would take 0.5 s.
    assert (finished[-1] - finished[0]).total_seconds() > 0.7
