"""Flower, in front of the whole local stack, shows workers, queues and tasks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
from pydantic import JsonValue

from cli.local_stack.stack import LocalStack
from shared.contracts.kind import QUEUES
from tests.conftest import PATIENCE_SECONDS, Eventually


@pytest.fixture
def flower(stack: LocalStack) -> Iterator[httpx2.Client]:
    ready = stack.ready
    credentials = (ready["flower_user"], ready["flower_password"])
    with httpx2.Client(base_url=ready["flower_url"], auth=credentials, timeout=PATIENCE_SECONDS) as client:
        yield client


def test_it_shows_a_worker_for_each_queue_and_only_our_queues(flower: httpx2.Client, eventually: Eventually) -> None:
    def list_worker_queues() -> set[str]:
        workers = flower.get("/workers", params={"json": "1"}).json()["data"]
        return {worker["hostname"].split("-")[0] for worker in workers if worker["status"]}

    eventually(lambda: list_worker_queues() == set(QUEUES))
    assert {queue["name"] for queue in flower.get("/api/queues/length").json()["active_queues"]} == set(QUEUES)


def test_it_shows_tasks_as_they_end_without_data_or_canaries(
    flower: httpx2.Client, stack_client: httpx2.Client, eventually: Eventually
) -> None:
    own: list[str] = []

    def submit(params: dict[str, Any], **options: JsonValue) -> None:
        answer = stack_client.post("/tasks", json={"kind": "platform.ping", "params": params, **options})
        own.append(answer.json()["id"])

    def find(state: str) -> dict[str, Any] | None:
        shown: dict[str, dict[str, Any]] = flower.get("/api/tasks").json()
        return next((shown[task_id] for task_id in own if shown.get(task_id, {}).get("state") == state), None)

    def submit_until_one_is_shown() -> dict[str, Any] | None:
        # What ended before Flower had connected is not shown.
        submit({"echo": "a secret"})
        return find("SUCCESS")

    done = eventually(submit_until_one_is_shown)
    submit({"echo": "a secret", "sleep_ms": 60_000}, timeout=1, max_attempts=1)
    failed = eventually(lambda: find("FAILURE"))

    assert (done["name"], done["args"], done["kwargs"]) == ("platform.ping", "()", "{}")
    assert failed["exception"] == "/problems/timed-out"
    assert "secret" not in str(done) + str(failed)
    assert "platform.canary" not in {task["name"] for task in flower.get("/api/tasks").json().values()}
