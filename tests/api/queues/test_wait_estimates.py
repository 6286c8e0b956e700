"""The `Retry-After` of tasks follows from how long they still wait, and is 1 to 60 seconds."""

from __future__ import annotations

import time

import httpx2
import pytest

from api.queues.queue_reader import QueueConditions
from api.queues.wait_estimates import QueueEstimate
from shared.queries.queues import ADD_ACTIVITY
from shared.queries.signs_of_life import SHOW_WORKER_SIGN, WORKER_PREFIX
from tests.api.conftest import ManualWorker, Submit
from tests.conftest import Eventually


def _estimate(
    *,
    workers: int = 1,
    running: int = 2,
    rate: float | None = 2.0,
    turns: tuple[float, ...] = (),
    is_paused: bool = False,
    paused_kinds: tuple[str, ...] = (),
) -> QueueEstimate:
    conditions = QueueConditions(workers, 2 * workers, False, running, rate)
    return QueueEstimate(time.monotonic(), conditions, list(turns), is_paused, frozenset(paused_kinds))


def test_a_published_task_waits_for_those_of_lesser_turns() -> None:
    assert _estimate(turns=(1, 2, 3, 4)).wait_seconds("a.b", 3) == pytest.approx(1.5)


def test_a_due_task_waits_for_all_that_are_published() -> None:
    assert _estimate(turns=(1, 2, 3, 4)).wait_seconds("a.b", None) == pytest.approx(2.5)


def test_a_task_with_a_free_slot_does_not_wait() -> None:
    assert _estimate(running=1, rate=None).wait_seconds("a.b", None) == 0


@pytest.mark.parametrize(
    "estimate", [_estimate(is_paused=True), _estimate(paused_kinds=("a.b",)), _estimate(workers=0, rate=None)]
)
def test_it_is_not_known_when_a_task_starts_that_is_paused_or_has_no_worker(estimate: QueueEstimate) -> None:
    assert estimate.wait_seconds("a.b", None) is None


def _retry_after(client: httpx2.Client, task_id: str, **headers: str) -> int:
    answer = client.get(f"/tasks/{task_id}", headers=headers)
    assert answer.status_code in {200, 304}
    return int(answer.headers["Retry-After"])


@pytest.mark.parametrize(("delay", "least", "most"), [(20, 15, 20), (3600, 60, 60)])
def test_a_scheduled_task_is_asked_for_when_its_time_comes(
    operator: httpx2.Client, ping: Submit, delay: int, least: int, most: int
) -> None:
    submitted = operator.post("/tasks", json={"kind": "platform.ping", "delay": delay})
    task_id = submitted.json()["id"]

    assert int(submitted.headers["Retry-After"]) == min(60, delay)
    assert least <= _retry_after(operator, task_id) <= most
    assert least <= _retry_after(operator, task_id, **{"If-None-Match": '"1"'}) <= most


def test_the_retry_after_of_a_queued_task_follows_from_its_queue(
    operator: httpx2.Client, ping: Submit, manual_worker: ManualWorker, eventually: Eventually
) -> None:
    details = '{"queues": ["files"], "slots": 1, "version": "1"}'
    manual_worker.connection.execute(SHOW_WORKER_SIGN, {"part": f"{WORKER_PREFIX}w@machine", "details": details})
    manual_worker.claim(ping())
    ids = [ping() for _ in range(50)]
    manual_worker.connection.execute(
        "UPDATE tasks SET rung_at = now(), turn = array_position(%s::uuid[], id) WHERE id = ANY(%s::uuid[])", (ids, ids)
    )
    manual_worker.connection.execute(ADD_ACTIVITY, {"queues": ["files"], "started": [5], "ended": [5]})

    eventually(lambda: _retry_after(operator, ids[-1]) > 5)
    assert _retry_after(operator, ids[0]) < _retry_after(operator, ids[-1]) <= 60


def test_a_paused_task_is_asked_for_after_a_tenth_of_the_time_that_it_has_waited(
    operator: httpx2.Client, ping: Submit, manual_worker: ManualWorker, eventually: Eventually
) -> None:
    task_id = ping()
    manual_worker.connection.execute(
        "UPDATE tasks SET created_at = now() - interval '5 minutes' WHERE id = %s", (task_id,)
    )
    operator.post("/queues/files/pause")

    eventually(lambda: 30 <= _retry_after(operator, task_id) <= 45)
    operator.post("/queues/files/resume")
