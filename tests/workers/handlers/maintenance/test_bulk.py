"""Actions on many tasks: in steps that are committed once, on the tasks that existed, as far as each of them allows."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import psycopg
import pytest

from shared.settings import Settings
from shared.tasks.filters import BulkAction, TaskFilter
from shared.tasks.states import TaskStatus
from tests.workers.conftest import SOMEONE, Bench, Tasks
from workers.handlers.maintenance import bulk
from workers.outcomes import Requeued


@pytest.fixture(autouse=True)
def take_few_tasks_in_a_step(monkeypatch: pytest.MonkeyPatch, bench: Bench) -> None:
    monkeypatch.setattr(bulk, "STEP_TASKS", 3)
    bench.handlers["maintenance.bulk"] = bulk.handle


def submit_action(tasks: Tasks, action: BulkAction, **values: object) -> UUID:
    """Submit an action on the pings of `SOMEONE`."""
    statuses = tuple(sorted(action.statuses))
    filtered = TaskFilter(kind="platform.ping", status=statuses).model_dump(mode="json", exclude_none=True)
    params = {"action": action, "filter": filtered, "organization_id": str(SOMEONE), "count": 10, **values}
    return tasks.submit_one("maintenance.bulk", params=params)


def result_of(tasks: Tasks, action_id: UUID) -> dict[str, Any]:
    row = tasks.get(action_id)
    assert row.status == "succeeded", row.error
    return dict(row.result)


def test_each_task_that_existed_is_cancelled_once(tasks: Tasks, bench: Bench) -> None:
    made = tasks.submit(count=10)
    tasks.cancel(made[3])
    foreign = tasks.submit_one(owner=UUID(int=7))
    action = submit_action(tasks, BulkAction.CANCEL)
    later = tasks.submit_one()

    bench.do(action)

    assert result_of(tasks, action) == {"changed": 9, "refused": {}}
    assert {tasks.status(task_id) for task_id in made} == {"cancelled"}
    assert (tasks.status(foreign), tasks.status(later)) == ("queued", "queued")
    assert (tasks.get(action).progress_percent, tasks.get(action).progress_message) == (100, "9 tasks")


def test_an_action_gives_its_slot_to_others_from_time_to_time(
    tasks: Tasks, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bulk, "SLICE_SECONDS", 0.0)
    made = tasks.submit(count=7)
    action = submit_action(tasks, BulkAction.CANCEL)
    statuses = []
    for _ in range(4):
        bench.do(action)
        statuses.append((tasks.status(action), [tasks.status(task_id) for task_id in made].count("cancelled")))

    assert statuses == [("queued", 3), ("queued", 6), ("queued", 7), ("succeeded", 7)]
    assert tasks.get(action).attempt == 1
    assert result_of(tasks, action) == {"changed": 7, "refused": {}}


def test_an_attempt_goes_on_where_the_last_one_was_ended(
    tasks: Tasks, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = tasks.submit(count=10)
    for task_id in made:
        tasks.cancel(task_id)
    action = submit_action(tasks, BulkAction.RETRY)
    steps = 0

    def hand_back_after_two_steps(point: str) -> None:
        nonlocal steps
        steps += point == "after-bulk-step"
        if steps == 2 and point == "after-bulk-step":
            raise Requeued

    monkeypatch.setattr(bulk.kill_points, "reach", hand_back_after_two_steps)
    bench.do(action)
    interrupted = [tasks.status(task_id) for task_id in made]
    # What the first attempt retried ends as before: it fits the filter again, and is not retried again.
    tasks.cancel(made[0])
    bench.do(action)

    assert interrupted == ["queued"] * 6 + ["cancelled"] * 4
    assert result_of(tasks, action) == {"changed": 10, "refused": {}}
    assert [tasks.status(task_id) for task_id in made] == ["cancelled"] + ["queued"] * 9


def test_a_cancelled_action_leaves_the_rest_as_it_is(
    tasks: Tasks, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = tasks.submit(count=10)
    action = submit_action(tasks, BulkAction.CANCEL, per_second=1000)

    monkeypatch.setattr(bulk.kill_points, "reach", lambda point: tasks.cancel(action))
    bench.do(action)

    assert tasks.status(action) == "cancelled"
    assert [tasks.status(task_id) for task_id in made] == ["cancelled"] * 3 + ["queued"] * 7


def test_tasks_are_spread_over_time_on_request(tasks: Tasks, bench: Bench) -> None:
    made = tasks.submit(count=4)
    for task_id in made:
        tasks.cancel(task_id)
    action = submit_action(tasks, BulkAction.RETRY, per_second=10)

    bench.do(action)

    moments = [
        tasks.connection.execute(
            "SELECT at FROM task_events WHERE task_id = %s AND data->>'retried' = 'true'", (task_id,)
        )
        .fetchone()
        .at
        for task_id in made
    ]
    assert result_of(tasks, action)["changed"] == 4
    assert (moments[-1] - moments[0]).total_seconds() > 0.2


def test_a_task_that_cannot_be_retried_or_deleted_is_counted_with_the_reason(tasks: Tasks, bench: Bench) -> None:
    often, fresh = tasks.submit(count=2)
    for task_id in (often, fresh):
        tasks.cancel(task_id)
    tasks.connection.execute("UPDATE tasks SET max_attempts = 1000 WHERE id = %s", (often,))

    bench.do(retrying := submit_action(tasks, BulkAction.RETRY))
    bench.do(deleting := submit_action(tasks, BulkAction.DELETE))

    assert result_of(tasks, retrying) == {"changed": 1, "refused": {"task-not-retriable": 1}}
    assert result_of(tasks, deleting) == {"changed": 1, "refused": {}}
    assert tasks.status(fresh) == "queued"
    assert tasks.get(often) is None


def test_a_task_that_is_locked_for_a_moment_is_waited_for(
    settings: Settings, tasks: Tasks, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = tasks.submit(count=2)
    action = submit_action(tasks, BulkAction.CANCEL)
    other = psycopg.connect(settings.database_url)
    other.execute("SELECT FROM tasks WHERE id = %s FOR UPDATE", (made[1],))
    seen: list[str] = []

    def unlock(point: str) -> None:
        if point == "after-bulk-step" and not seen:
            seen.extend(tasks.status(task_id) for task_id in made)
            other.rollback()

    monkeypatch.setattr(bulk.kill_points, "reach", unlock)
    bench.do(action)
    other.close()

    assert seen == ["cancelled", "queued"]
    assert result_of(tasks, action) == {"changed": 2, "refused": {}}


def test_each_action_has_its_own_statuses() -> None:
    assert BulkAction.CANCEL.statuses.isdisjoint(BulkAction.DELETE.statuses)
    assert BulkAction.DELETE.statuses - BulkAction.RETRY.statuses == {TaskStatus.SUCCEEDED}
