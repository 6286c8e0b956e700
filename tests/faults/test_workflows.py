"""A workflow while its workers die: each step succeeds once, and what follows it starts."""

from __future__ import annotations

import httpx2
from pydantic import JsonValue

from tests.faults.conftest import Room

LEASE_SECONDS = 2.0
MAX_ATTEMPTS = 10
"""More than the killed workers use up, because on a busy machine a worker that lives may lose its lease too."""
LAYERS, STEPS_OF_A_LAYER = 8, 5
COUNT_SUCCEEDED = "SELECT count(*) FROM workflow_steps WHERE status = 'succeeded'"
ENDS_BY_STEP = """
SELECT task.workflow_step, count(*) FILTER (WHERE event.data->>'status' = 'succeeded')
FROM tasks task JOIN task_events event ON event.task_id = task.id GROUP BY task.workflow_step"""


def _make_step(layer: int, place: int) -> dict[str, JsonValue]:
    """Return a step that waits for the whole layer before it, and passes on the text of the one at its place there."""
    if layer == 0:
        return {
            "name": f"s0-{place}",
            "kind": "platform.ping",
            "params": {"echo": f"text {place}"},
            "max_attempts": MAX_ATTEMPTS,
        }
    return {
        "name": f"s{layer}-{place}",
        "kind": "platform.ping",
        "max_attempts": MAX_ATTEMPTS,
        "params": {"echo": {"$from": f"s{layer - 1}-{place}.result.echo"}, "sleep_ms": 20},
        "after": [f"s{layer - 1}-{other}" for other in range(STEPS_OF_A_LAYER)],
    }


def test_each_of_forty_steps_succeeds_once_while_workers_are_killed(room: Room, client: httpx2.Client) -> None:
    steps: list[JsonValue] = [_make_step(layer, place) for layer in range(LAYERS) for place in range(STEPS_OF_A_LAYER)]
    room.relay()
    dying = [room.worker(kill="before-finish"), room.worker(kill="after-claim")]
    answer = client.post("/workflows", json={"steps": steps})
    assert answer.status_code == 202, answer.text
    for step in answer.json()["steps"]:
        room.note(step["task_id"])

    for process in dying:
        room.wait_for_death(process)
    third = room.worker()
    room.eventually(lambda: room.ask(COUNT_SUCCEEDED)[0][0] >= 12)
    third.kill()
    room.worker()

    assert set(room.settle().values()) == {"succeeded"}
    assert dict(room.ask(ENDS_BY_STEP)) == {step["name"]: 1 for step in answer.json()["steps"]}
    workflow = client.get(answer.headers["location"]).json()
    assert (workflow["status"], workflow["step_counts"]) == ("succeeded", {"succeeded": 40})
    last = [step["task_id"] for step in workflow["steps"][-STEPS_OF_A_LAYER:]]
    assert [client.get(f"/tasks/{task_id}").json()["result"]["echo"] for task_id in last] == [
        f"text {place}" for place in range(STEPS_OF_A_LAYER)
    ]
