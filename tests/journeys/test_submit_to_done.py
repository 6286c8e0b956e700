"""From the submission of a task to its end, on real parts."""

from __future__ import annotations

from tests.conftest import Api, Parts


def test_a_waiting_request_sees_the_end_of_its_task(api: Api, engine_room: Parts) -> None:
    client = api.client("operator", "operator")

    submitted = client.post("/tasks", json={"kind": "platform.ping", "params": {"echo": "hello"}})
    followed = client.get(submitted.headers["location"], params={"wait": 60})

    assert submitted.status_code == 202
    assert followed.json()["status"] == "succeeded", engine_room.logs()
    assert followed.json()["result"] == {"echo": "hello"}
