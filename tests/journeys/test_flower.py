"""Flower, in front of the whole local stack, sees what it is there for: workers, queues, kinds and task ids."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import httpx2
import pytest

from cli.local_stack.stack import LocalStack
from shared.contracts.catalog import list_kinds
from shared.contracts.kind import QUEUES


@pytest.fixture
def flower(stack: LocalStack) -> Iterator[httpx2.Client]:
    ready = stack.ready
    credentials = (ready["flower_user"], ready["flower_password"])
    with httpx2.Client(base_url=ready["flower_url"], auth=credentials, timeout=30) as client:
        yield client


def test_it_sees_a_worker_for_each_queue_and_every_kind(flower: httpx2.Client, eventually: Callable[..., Any]) -> None:
    def ask() -> Any:
        workers = flower.get("/api/workers", params={"refresh": "1"}).json().values()
        queues = {queue["name"] for worker in workers for queue in worker.get("active_queues") or ()}
        return list(workers) if queues == set(QUEUES) else None

    for worker in eventually(ask):
        assert set(worker["registered"]) == set(list_kinds())
    assert {queue["name"] for queue in flower.get("/api/queues/length").json()["active_queues"]} == set(QUEUES)


def test_it_sees_tasks_by_their_ids_as_they_end_and_nothing_of_their_data(
    flower: httpx2.Client, stack_client: httpx2.Client, eventually: Callable[..., Any]
) -> None:
    def submit(params: dict[str, Any], **options: Any) -> str:
        answer = stack_client.post("/tasks", json={"kind": "platform.ping", "params": params, **options})
        return str(answer.json()["id"])

    def ask(task_id: str, state: str) -> Any:
        answer = flower.get(f"/api/task/info/{task_id}")
        return answer.json() if answer.status_code == 200 and answer.json()["state"] == state else None

    # A worker tells of its tasks once Flower has found it and asked it to: what ended before is not seen.
    good: list[str] = []

    def see_one() -> Any:
        good.append(submit({"echo": "a secret"}))
        return next((found for task_id in good if (found := ask(task_id, "SUCCESS"))), None)

    done = eventually(see_one)
    bad = submit({"echo": "a secret", "sleep_ms": 60_000}, timeout=1, max_attempts=1)
    failed = eventually(lambda: ask(bad, "FAILURE"))

    assert (done["name"], done["args"], done["kwargs"]) == ("platform.ping", "()", "{}")
    assert failed["exception"] == "/problems/timed-out"
    assert "secret" not in str(done) + str(failed)
