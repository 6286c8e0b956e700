"""Each limit of a worker that a setting changes holds at its configured value, and not only at its default."""

from __future__ import annotations

import io
import json
from datetime import datetime
from typing import Any

from PIL import Image

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


def test_a_limited_child_has_no_more_memory_than_configured(api: Api, parts: Parts, eventually: Eventually) -> None:
    parts.settings = parts.settings.model_copy(update={"child_memory_bytes": 256 << 20})
    parts.start("relay")
    parts.start("worker", "--queues", "files")
    caller = api.client()

    def inspect(pixels: int) -> dict[str, Any]:
        """Inspect a square GIF, of which a reader holds every pixel at once."""
        picture = io.BytesIO()
        Image.new("P", (pixels, pixels)).save(picture, "GIF")
        task = json.dumps({"kind": "files.inspect", "params": {}})
        answer = caller.post("/files", files={"task": (None, task), "file": ("a.gif", picture.getvalue())})
        assert answer.status_code == 202
        return eventually(lambda: find_done(answer.json()["id"]))

    def find_done(task_id: str) -> dict[str, Any] | None:
        task = caller.get(f"/tasks/{task_id}").json()
        return task if task["done"] else None

    assert inspect(100)["status"] == "succeeded"
    # 256 MB, which the default allows.
    assert inspect(8_000)["error"]["type"] == "/problems/out-of-memory"
