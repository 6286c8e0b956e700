"""`task_json` writes what the model `Task` describes, in every status."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest

from api.following.task_models import Task
from api.following.task_representation import TaskRow, new_task_json, task_json
from shared.contracts.catalog import list_kinds
from shared.identifiers import new_id
from shared.tasks.options import TaskOptions
from shared.tasks.states import TaskStatus
from shared.tasks.submission import make_task

MOMENT = datetime(2030, 1, 31, 9, 0, 0, 123456, UTC)
ERROR = {
    "type": "/problems/timed-out",
    "title": "Timed out",
    "detail": "The attempt took longer than 300 seconds.",
    "retryable": True,
    "attempt": 1,
    "data": {"seconds": 300},
}
ARTIFACT = {
    "id": str(new_id()),
    "name": "report.csv",
    "media_type": "text/csv",
    "size": 3,
    "sha256": "0" * 64,
    "url": f"/files/{new_id()}/content",
    "expires_at": "2030-02-07T09:00:00.123Z",
}


def row(status: TaskStatus) -> TaskRow:
    """A task that has a value in every column."""
    return TaskRow(
        id=new_id(),
        kind="reports.run",
        queue="reports",
        status=status,
        progress_percent=40,
        progress_message="2 of 5",
        attempt=1,
        max_attempts=3,
        next_attempt_at=MOMENT,
        priority=5,
        params='{"query": "SELECT 1", "deep": [{"x": null}]}',
        result='{"rows": 1}',
        error=json.dumps(ERROR),
        artifacts=json.dumps([ARTIFACT]),
        tags=["weekly"],
        metadata='{"customer": "Ada"}',
        batch_id=new_id(),
        created_at=MOMENT,
        run_at=MOMENT,
        started_at=MOMENT,
        finished_at=MOMENT,
        cancel_requested_at=MOMENT,
        purge_at=MOMENT,
        version=7,
        organization_id=new_id(),
        turn=3.0,
        workflow_id=new_id(),
        workflow_step="make",
        rerun_of=new_id(),
        parent_id=new_id(),
        schedule_id=new_id(),
    )


@pytest.mark.parametrize("status", list(TaskStatus))
def test_a_stored_task_is_written_as_its_model_describes(status: TaskStatus) -> None:
    written = task_json(row(status))

    task = Task.model_validate_json(written, strict=True)

    assert json.loads(task.model_dump_json(exclude_unset=True)) == json.loads(written)


@pytest.mark.parametrize("kind_name", [name for name, kind in list_kinds().items() if kind.example is not None])
def test_a_new_task_is_written_as_its_model_describes(kind_name: str) -> None:
    kind = list_kinds()[kind_name]
    params = kind.params.model_validate_json(json.dumps(kind.example))
    body = params.model_dump_json(by_alias=True).encode()
    new = make_task(kind_name, kind, body, kind.queue_for(params), TaskOptions(), new_id(), new_id())

    written = new_task_json(new, MOMENT)

    task = Task.model_validate_json(written, strict=True)
    assert json.loads(task.model_dump_json(exclude_unset=True)) == json.loads(written)
    assert (task.status, task.attempt, task.error) == (TaskStatus.QUEUED, 0, None)


def test_only_a_done_or_retrying_task_shows_an_error() -> None:
    showing = {status for status in TaskStatus if Task.model_validate_json(task_json(row(status))).error is not None}

    assert showing == {TaskStatus.FAILED, TaskStatus.CANCELLED, TaskStatus.EXPIRED, TaskStatus.RETRYING}
