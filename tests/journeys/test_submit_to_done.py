"""From a submission to its end, on real parts."""

from __future__ import annotations

from typing import Any


def test_a_submitted_task_is_done_and_seen_by_who_waits(api: Any, engine_room: Any) -> None:
    client = api.client("operator", "operator")

    submitted = client.post("/tasks", json={"kind": "platform.ping", "params": {"echo": "hello"}})
    followed = client.get(submitted.headers["location"], params={"wait": 60})

    assert submitted.status_code == 202
    assert followed.json()["status"] == "succeeded", engine_room.logs()
    assert followed.json()["result"] == {"echo": "hello"}
