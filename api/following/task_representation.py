"""Serializes tasks as JSON, from their rows or from new submissions.

Every answer with a task uses this module, and `api.following.task_models.Task` describes the result for the schema.
Serializing that model instead takes more than twice as long.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, Final, NamedTuple
from uuid import UUID

import orjson

from api.auth.caller import Caller
from api.http.answers import timestamp
from shared.permissions import Permission
from shared.tasks.secret_params import mask_json
from shared.tasks.states import DONE_VALUES, SHOWS_ERROR
from shared.tasks.submission import NewTask


class TaskOrigin(NamedTuple):
    """Who submitted a task, and which worker claimed it last. Operators and admins see it."""

    owner_id: UUID
    owner_name: str | None
    api_key_name: str | None
    worker: str | None

    @classmethod
    def of_new_task(cls, caller: Caller) -> TaskOrigin | None:
        """Return the origin of a task that the caller has just submitted, or None if the caller may not see it."""
        return (
            cls(caller.owner_id, caller.owner_name, caller.key_name, None)
            if caller.has(Permission.TASKS_READ_ORIGIN)
            else None
        )


class TaskRow(NamedTuple):
    """The columns of `hot_tasks.READ`, in its order. JSON columns are text."""

    id: UUID
    kind: str
    queue: str
    status: str
    progress_percent: int | None
    progress_message: str | None
    attempt: int
    max_attempts: int
    next_attempt_at: datetime | None
    priority: int
    params: str
    result: str | None
    error: str | None
    artifacts: str | None
    tags: list[str]
    metadata: str
    batch_id: UUID | None
    created_at: datetime
    run_at: datetime | None
    started_at: datetime | None
    finished_at: datetime | None
    cancel_requested_at: datetime | None
    purge_at: datetime | None
    version: int
    organization_id: UUID
    turn: float | None
    workflow_id: UUID | None = None
    workflow_step: str | None = None
    rerun_of: UUID | None = None
    parent_id: UUID | None = None
    schedule_id: UUID | None = None
    key_limits: str | None = None
    origin: TaskOrigin | None = None
    """Not a column: `TaskReader` adds it for operators and admins."""
    is_content_hidden: bool = False
    """Not a column: whether this is a row of `without_content`."""

    @property
    def done(self) -> bool:
        """Whether the status is terminal."""
        return self.status in DONE_VALUES

    @property
    def etag(self) -> str:
        """The strong entity tag of the task's representation, which changes with anything that it shows."""
        return f'"{self.version}"'

    def without_content(self) -> TaskRow:
        """Return the task as a viewer may see it: without what was given to the handler, and what came of it."""
        return self._replace(
            params="{}",
            result=None,
            artifacts=None,
            metadata="{}",
            progress_message=None,
            error=None if self.error is None else orjson.dumps(hide_details(orjson.loads(self.error))).decode(),
            is_content_hidden=True,
        )


HIDDEN_DETAIL: Final = "Your role does not show what happened. Ask someone who may see the content of tasks."


def hide_details(error: dict[str, Any]) -> dict[str, Any]:
    """Return the error of a task as a viewer may see it: what kind of error it is, but not what it says of the content."""
    return {**error, "detail": HIDDEN_DETAIL, "data": {}}


def task_json(row: TaskRow) -> bytes:
    """Return a task as JSON."""
    status = row.status
    done = status in DONE_VALUES
    task_id = str(row.id)
    key_limits = {} if row.key_limits is None else orjson.loads(row.key_limits)
    document = {
        "id": task_id,
        "kind": row.kind,
        "queue": row.queue,
        "status": status,
        "done": done,
        "progress": None
        if row.progress_percent is None
        else {"percent": row.progress_percent, "message": row.progress_message},
        "attempt": row.attempt,
        "max_attempts": row.max_attempts,
        "next_attempt_at": timestamp(row.next_attempt_at),
        "priority": row.priority,
        "params": orjson.Fragment(mask_json(row.params)),
        "result": None if row.result is None or status != "succeeded" else orjson.Fragment(row.result),
        "error": None if row.error is None or status not in SHOWS_ERROR else orjson.Fragment(row.error),
        "artifacts": [] if row.artifacts is None else orjson.Fragment(row.artifacts),
        "tags": row.tags,
        "metadata": orjson.Fragment(row.metadata),
        "batch_id": row.batch_id,
        "workflow_id": row.workflow_id,
        "workflow_step": row.workflow_step,
        "rerun_of": row.rerun_of,
        "parent_id": row.parent_id,
        "schedule_id": row.schedule_id,
        "concurrency": key_limits.get("concurrency"),
        "rate": key_limits.get("rate"),
        "created_at": timestamp(row.created_at),
        "run_at": timestamp(row.run_at),
        "started_at": timestamp(row.started_at),
        "finished_at": timestamp(row.finished_at),
        "cancel_requested_at": timestamp(row.cancel_requested_at),
        "purge_at": timestamp(row.purge_at),
        "links": task_links(task_id),
    }
    if row.origin is not None:
        document["owner"] = {"id": str(row.origin.owner_id), "name": row.origin.owner_name}
        document["api_key_name"] = row.origin.api_key_name
        document["worker"] = row.origin.worker
    if row.is_content_hidden:
        document["content_hidden"] = True
    return orjson.dumps(document)


def new_task_json(task: NewTask, created_at: datetime, origin: TaskOrigin | None = None) -> bytes:
    """Return the JSON of a new task that was committed at `created_at`."""
    run_at = task.run_at
    if run_at is None and task.delay is not None:
        run_at = created_at + timedelta(seconds=task.delay)
    return task_json(
        TaskRow(
            id=task.id,
            kind=task.kind,
            queue=task.queue,
            status=task.status,
            progress_percent=None,
            progress_message=None,
            attempt=0,
            max_attempts=task.max_attempts,
            next_attempt_at=None,
            priority=task.priority,
            params=task.params.decode(),
            result=None,
            error=None,
            artifacts=None,
            tags=list(task.tags),
            metadata=orjson.dumps(task.metadata).decode(),
            batch_id=task.batch_id,
            created_at=created_at,
            run_at=run_at,
            started_at=None,
            finished_at=None,
            cancel_requested_at=None,
            purge_at=None,
            version=1,
            organization_id=task.organization_id,
            turn=None,
            rerun_of=task.rerun_of,
            parent_id=task.parent_id,
            schedule_id=task.schedule_id,
            key_limits=None if task.key_limits is None else orjson.dumps(task.key_limits).decode(),
            origin=origin,
        )
    )


def task_links(task_id: str) -> dict[str, str]:
    """Return the routes of a task."""
    path = f"/tasks/{task_id}"
    return {
        "self": path,
        "events": path + "/events",
        "cancel": path + "/cancel",
        "rerun": path + "/rerun",
        "reruns": "/tasks?rerun_of=" + task_id,
    }
