"""`GET /tasks/<id>/waiting`: why a task waits, and what is ahead of it in the order in which tasks are claimed."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import httpx2
import pytest

from shared.database.connections import connect_hot
from shared.queries.key_limits import UNBLOCK
from shared.queries.queues import ADD_ACTIVITY
from shared.queries.signs_of_life import SHOW_WORKER_SIGN, WORKER_PREFIX
from shared.queries.tasks import CANCEL
from shared.settings import Settings
from tests.api.conftest import ManualWorker, Submit
from workers.relay.relay import mark_published

WORKER = {"part": f"{WORKER_PREFIX}w@machine", "details": '{"queues": ["files", "email"], "slots": 2, "version": "1"}'}


class Relay:
    """Publishes as a relay does, with a window of three tasks."""

    def __init__(self, settings: Settings) -> None:
        self._connection = connect_hot(settings, "test-relay")

    def publish(self, window: int = 3) -> int:
        return len(mark_published(self._connection, "files", window))

    def close(self) -> None:
        self._connection.close()


@pytest.fixture
def relay(module_settings: Settings) -> Iterator[Relay]:
    relay = Relay(module_settings)
    yield relay
    relay.close()


@pytest.fixture(autouse=True)
def empty_queues(manual_worker: ManualWorker) -> Iterator[None]:
    """Each test begins with one idle worker and no queued task."""
    for table in ("tasks", "pauses", "queue_activity", "queue_turns", "caller_turns", "signs_of_life"):
        manual_worker.connection.execute(f"TRUNCATE {table}")  # type: ignore[arg-type]
    manual_worker.connection.execute(SHOW_WORKER_SIGN, WORKER)
    yield


def _explain(by: httpx2.Client, task_id: str) -> dict[str, Any]:
    answer = by.get(f"/tasks/{task_id}/waiting")
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def _ahead(by: httpx2.Client, task_id: str) -> int | None:
    found = _explain(by, task_id)
    assert found["reason"] in {"behind", "no_worker"}
    assert found["position"] == (None if found["ahead"] is None else found["ahead"] + 1)
    ahead: int | None = found["ahead"]
    return ahead


def test_a_scheduled_task_waits_for_its_time(operator: httpx2.Client, ping: Submit) -> None:
    run_at = (datetime.now(UTC) + timedelta(hours=1)).isoformat(timespec="milliseconds").replace("+00:00", "Z")

    found = _explain(operator, ping(run_at=run_at))

    assert (found["reason"], found["estimated_start_at"], found["ahead"]) == ("scheduled", run_at, None)


def test_a_failed_attempt_waits_for_the_next(
    operator: httpx2.Client, ping: Submit, manual_worker: ManualWorker
) -> None:
    task_id = ping()
    manual_worker.claim(task_id)
    manual_worker.end(task_id, "retrying", error={"type": "/problems/internal-error", "attempt": 1}, delay=40)

    found = _explain(operator, task_id)

    assert found["reason"] == "retry_backoff"
    assert found["estimated_start_at"] == operator.get(f"/tasks/{task_id}").json()["next_attempt_at"]
    assert found["since"] < found["estimated_start_at"]


@pytest.mark.parametrize("path", ["/queues/files", "/kinds/platform.ping"])
def test_a_paused_task_says_so(operator: httpx2.Client, ping: Submit, path: str) -> None:
    task_id = ping()
    assert operator.post(f"{path}/pause").status_code == 200

    found = _explain(operator, task_id)

    assert (found["status"], found["reason"], found["estimated_start_at"]) == ("queued", "paused", None)
    operator.post(f"{path}/resume")
    assert _explain(operator, task_id)["reason"] == "behind"


def test_a_queue_without_a_living_worker_has_no_worker(
    operator: httpx2.Client, ping: Submit, manual_worker: ManualWorker
) -> None:
    manual_worker.connection.execute("UPDATE signs_of_life SET at = now() - interval '1 minute'")

    found = _explain(operator, ping())

    assert (found["reason"], found["ahead"], found["estimated_start_at"]) == ("no_worker", 0, None)


def test_a_next_task_with_a_free_slot_starts_now(operator: httpx2.Client, ping: Submit) -> None:
    found = _explain(operator, ping())

    assert (found["reason"], found["position"], found["ahead"]) == ("behind", 1, 0)
    start = datetime.fromisoformat(found["estimated_start_at"])
    assert abs(start - datetime.now(UTC)) < timedelta(seconds=20)


def test_running_and_done_tasks_do_not_wait(operator: httpx2.Client, ping: Submit, manual_worker: ManualWorker) -> None:
    task_id = ping()
    manual_worker.claim(task_id)
    running = _explain(operator, task_id)
    manual_worker.end(task_id, "succeeded", result={"echo": None})

    done = _explain(operator, task_id)

    assert (running["status"], running["reason"], running["since"]) == ("running", None, None)
    assert (done["status"], done["reason"], done["position"]) == ("succeeded", None, None)


def test_a_step_of_a_workflow_waits_for_the_steps_before_it(operator: httpx2.Client) -> None:
    first, second = {"name": "first", "kind": "platform.ping"}, {"name": "second", "kind": "platform.ping"}
    answer = operator.post("/workflows", json={"steps": [first, {**second, "after": ["first"]}]})
    assert answer.status_code == 202, answer.text
    tasks = {task["workflow_step"]: task["id"] for task in operator.get("/tasks?limit=2").json()["items"]}

    found = _explain(operator, tasks["second"])

    assert (found["status"], found["reason"], found["estimated_start_at"]) == ("scheduled", "upstream", None)
    assert _explain(operator, tasks["first"])["reason"] == "behind"
    assert 1 <= int(operator.get(f"/tasks/{tasks['second']}").headers["Retry-After"]) <= 60


def test_a_position_counts_published_and_due_tasks_of_the_caller(
    operator: httpx2.Client, ping: Submit, relay: Relay
) -> None:
    ids = [ping() for _ in range(6)]
    assert relay.publish() == 3

    assert [_ahead(operator, task_id) for task_id in ids] == [0, 1, 2, 3, 4, 5]


def test_priority_decides_among_the_tasks_of_a_caller(operator: httpx2.Client, ping: Submit) -> None:
    low, first, urgent = ping(priority=1), ping(), ping(priority=9)

    assert [_ahead(operator, task_id) for task_id in (urgent, first, low)] == [0, 1, 2]


def test_callers_tasks_are_ahead_in_turn(
    operator: httpx2.Client, admin: httpx2.Client, ping: Submit, relay: Relay
) -> None:
    backlog = [ping() for _ in range(20)]
    relay.publish(window=10)
    mine = [ping(admin) for _ in range(2)]

    first, second = (_ahead(admin, task_id) for task_id in mine)
    last = _ahead(operator, backlog[-1])

    assert first is not None and first <= 1
    assert second is not None and second <= 3
    assert last == 21


def test_an_estimate_follows_from_the_rate_of_the_last_minute(
    operator: httpx2.Client, ping: Submit, manual_worker: ManualWorker
) -> None:
    for _ in range(2):
        manual_worker.claim(ping())
    ids = [ping() for _ in range(10)]
    assert _explain(operator, ids[-1])["estimated_start_at"] is None
    manual_worker.connection.execute(ADD_ACTIVITY, {"queues": ["files"], "started": [5], "ended": [5]})

    found = _explain(operator, ids[-1])

    seconds = (datetime.fromisoformat(found["estimated_start_at"]) - datetime.now(UTC)).total_seconds()
    assert 2 < seconds < 40


def test_a_long_backlog_is_not_counted(operator: httpx2.Client, ping: Submit, manual_worker: ManualWorker) -> None:
    task_id = ping()
    manual_worker.connection.execute(
        """INSERT INTO tasks (id, kind, queue, status, organization_id, owner_id, max_attempts, timeout_seconds,
            keep_seconds, priority)
        SELECT gen_random_uuid(), kind, queue, status, organization_id, owner_id, 3, 60, 60, 9
        FROM tasks, generate_series(1, 10001) WHERE id = %s""",
        (task_id,),
    )

    found = _explain(operator, task_id)

    assert (found["reason"], found["position"], found["ahead"]) == ("behind", None, None)


def test_another_organizations_task_is_not_found(client: httpx2.Client, ping: Submit) -> None:
    foreign = client.get(f"/tasks/{ping()}/waiting")
    absent = client.get(f"/tasks/{uuid4()}/waiting")

    assert (foreign.status_code, absent.status_code) == (404, 404)


def test_a_task_whose_key_has_no_room_says_so(
    operator: httpx2.Client, ping: Submit, relay: Relay, manual_worker: ManualWorker
) -> None:
    limits = {"concurrency": {"key": "k", "limit": 1}}
    first, second = ping(**limits), ping(**limits)
    assert _explain(operator, second)["reason"] == "behind"

    relay.publish()

    found = _explain(operator, second)
    assert (found["status"], found["reason"], found["ahead"]) == ("queued", "caller_limit", None)
    assert found["since"] is not None
    manual_worker.connection.execute(CANCEL, {"ids": [first]})
    manual_worker.connection.execute(UNBLOCK)
    assert _explain(operator, second)["reason"] == "behind"


def test_a_task_of_a_caller_who_may_not_run_more_at_once_says_so(
    operator: httpx2.Client, ping: Submit, relay: Relay, manual_worker: ManualWorker
) -> None:
    first, second = ping(), ping()
    manual_worker.connection.execute(
        "INSERT INTO limits (subject_id, scope, name, amount) SELECT owner_id, 'caller', 'running', 1 FROM tasks LIMIT 1"
    )
    try:
        relay.publish()

        assert [_explain(operator, task_id)["reason"] for task_id in (first, second)] == ["behind", "caller_limit"]
    finally:
        manual_worker.connection.execute("DELETE FROM limits")
