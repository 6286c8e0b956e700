"""The answers about tasks and batches as pydantic models, from which the schema at `/openapi.json` is generated.

For speed, tasks are serialized by `task_representation.task_json` and not by the model in this module.
`tests/api/following/test_task_models.py` checks that both agree.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import Field

from api.http.answers import AnswerModel, Moment, Path
from shared.queries.tasks import MAX_COUNTED_FAILURES
from shared.tasks.filters import BulkAction
from shared.tasks.options import ConcurrencyLimit, RateLimit
from shared.tasks.states import TaskStatus

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$", description="The SHA-256 of the bytes, in hexadecimal.")]


class Artifact(AnswerModel):
    """A file that a task made."""

    id: Annotated[UUID, Field(description="The id of the file, as in `GET /files/<id>`.")]
    name: str
    media_type: str
    size: Annotated[int, Field(ge=0, description="The size in bytes.")]
    sha256: Sha256
    url: Annotated[Path, Field(description="Where the file is downloaded.")]
    expires_at: Annotated[Moment | None, Field(description="When the file is deleted.")]


class TaskError(AnswerModel):
    """Why a task, or its last attempt, did not succeed."""

    type: Annotated[
        Path,
        Field(
            description="A stable URI reference for programs, such as `/problems/timed-out`, which explains the error."
        ),
    ]
    title: Annotated[str, Field(description="What kind of error it is, for people.")]
    detail: Annotated[str, Field(description="What happened to this task, for people.")]
    retryable: Annotated[bool, Field(description="Whether another attempt may succeed.")]
    attempt: Annotated[int, Field(ge=0, description="The number of the attempt that failed; 0 if none was started.")]
    data: Annotated[dict[str, Any], Field(description="Details for programs. The description of the kind names them.")]


class TaskProgress(AnswerModel):
    """How far an attempt is."""

    percent: Annotated[int, Field(ge=0, le=100)]
    message: str | None


class TaskLinks(AnswerModel):
    """The routes of a task."""

    self: Path
    events: Path
    cancel: Path
    rerun: Path
    reruns: Annotated[Path, Field(description="The tasks that rerun this one.")]


class TaskOwner(AnswerModel):
    """The caller who submitted a task."""

    id: UUID
    name: Annotated[str | None, Field(description="The name of the caller; null for tasks of the platform itself.")]


class Task(AnswerModel):
    """A task as it is now."""

    id: UUID
    kind: Annotated[str, Field(examples=["files.make_images"])]
    queue: str
    status: TaskStatus
    done: Annotated[bool, Field(description="Whether the status is terminal: it changes only by a retry.")]
    progress: TaskProgress | None
    attempt: Annotated[int, Field(ge=0, description="How many attempts have been started.")]
    max_attempts: Annotated[int, Field(ge=1)]
    next_attempt_at: Annotated[Moment | None, Field(description="When the next attempt is due, while `retrying`.")]
    priority: Annotated[int, Field(ge=0, le=9)]
    params: dict[str, Any]
    result: Annotated[dict[str, Any] | None, Field(description="The result, once the task has succeeded.")]
    error: Annotated[
        TaskError | None,
        Field(description="Why the task did not succeed, or, while `retrying`, why its last attempt did not."),
    ]
    artifacts: list[Artifact]
    tags: list[str]
    metadata: dict[str, str]
    batch_id: UUID | None
    workflow_id: Annotated[UUID | None, Field(description="The workflow that the task is a step of, if it is one.")]
    workflow_step: Annotated[str | None, Field(description="The name of that step.")]
    rerun_of: Annotated[UUID | None, Field(description="The task that this one reruns, if it is a rerun.")]
    parent_id: Annotated[UUID | None, Field(description="The task that submitted this one, if a task did.")]
    schedule_id: Annotated[UUID | None, Field(description="The schedule that submitted the task, if one did.")]
    concurrency: Annotated[
        ConcurrencyLimit | None,
        Field(description="How many tasks of its key run at once at most, as it was submitted."),
    ]
    rate: Annotated[
        RateLimit | None, Field(description="How many attempts of its key start within a time, as it was submitted.")
    ]
    created_at: Moment
    run_at: Moment | None
    started_at: Moment | None
    finished_at: Moment | None
    cancel_requested_at: Moment | None
    purge_at: Annotated[Moment | None, Field(description="When the task and its artifacts are erased.")]
    links: TaskLinks
    owner: Annotated[
        TaskOwner | None, Field(description="The caller who submitted the task. Operators and admins see it.")
    ] = None
    api_key_name: Annotated[
        str | None, Field(description="The name of the API key that submitted the task. Operators and admins see it.")
    ] = None
    worker: Annotated[
        str | None,
        Field(
            description="The worker process that runs the last attempt or ran it; null before the first. Operators and "
            "admins see it."
        ),
    ] = None
    content_hidden: Annotated[
        bool | None,
        Field(
            description="True for a viewer, and left out for others. `params` and `metadata` are then empty, `result` is null, "
            "`artifacts` is empty, and `progress` and `error` have no text of the handler."
        ),
    ] = None


class TaskPage(AnswerModel):
    """One page of a list of tasks."""

    items: list[Task]
    next_cursor: Annotated[str | None, Field(description="The `cursor` of the next page; null on the last page.")]


class TasksById(AnswerModel):
    """The tasks with the ids that were asked for."""

    items: list[Task]
    missing: Annotated[list[UUID], Field(description="The ids without a task that the caller may see.")]


class FailureGroup(AnswerModel):
    """Tasks of one kind that ended with one type of error."""

    kind: str
    error_type: Path
    count: Annotated[int, Field(ge=1)]
    first_at: Annotated[Moment, Field(description="When the first of them ended.")]
    last_at: Annotated[Moment, Field(description="When the last of them ended.")]
    example_id: Annotated[UUID, Field(description="The newest of them.")]


class FailureGroups(AnswerModel):
    """Failed tasks by kind and type of error."""

    items: list[FailureGroup]
    complete: Annotated[bool, Field(description="Whether every task is counted; if not, narrow the filter.")]
    counted_since: Annotated[
        Moment | None,
        Field(
            description=f"With more than {MAX_COUNTED_FAILURES:,} tasks, the newest are counted: those that were created at this "
            "time or later. null if all are counted."
        ),
    ]


class TaskCount(AnswerModel):
    """How many tasks an action on many is for."""

    action: BulkAction
    count: Annotated[
        int | None,
        Field(ge=0, description="null if they could not be counted in time: the action is possible all the same."),
    ]
    exact: Annotated[bool, Field(description="Whether there are exactly so many; if not, there are at least so many.")]


class SubmittedBatch(AnswerModel):
    """The tasks of a batch that was committed."""

    batch_id: UUID
    tasks: Annotated[list[Task], Field(min_length=1)]


class BatchFollowUp(AnswerModel):
    """The task that is submitted when the last task of a batch has ended."""

    kind: str
    task_id: Annotated[UUID | None, Field(description="The task; null until it is submitted.")]


class BatchState(AnswerModel):
    """How far the tasks of a batch are."""

    id: UUID
    total: Annotated[int, Field(ge=1, description="How many tasks the batch has.")]
    counts: Annotated[
        dict[TaskStatus, Annotated[int, Field(ge=1)]],
        Field(description="How many tasks have each status; a status without tasks is left out."),
    ]
    created_at: Moment
    finished_at: Annotated[Moment | None, Field(description="When the last task was done; null until all are.")]
    on_finished: Annotated[
        BatchFollowUp | None,
        Field(description="What the batch submits when its last task has ended. It is left out if that is nothing."),
    ] = None


class TaskLogLine(AnswerModel):
    """A line that the handler of a task wrote for the task's owner."""

    seq: Annotated[int, Field(ge=1, description="The number of the event within the task's history.")]
    at: Moment
    level: Literal["debug", "info", "warning", "error"]
    text: str
    fields: Annotated[dict[str, Any], Field(description="What the handler added for programs.")]


class TaskLogPage(AnswerModel):
    """Lines of a task's log, oldest first."""

    items: list[TaskLogLine]
    next_after: Annotated[
        int | None, Field(description="The `after` of the next lines; null if there are none at the moment.")
    ]


class Valid(AnswerModel):
    """The request is valid, and nothing was stored (`validate_only`)."""

    valid: Literal[True]
