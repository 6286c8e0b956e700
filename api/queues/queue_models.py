"""The answers about queues, pauses and workers as pydantic models."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from pydantic import Field

from api.http.answers import AnswerModel, Moment

Count = Annotated[int, Field(ge=0)]


class QueueState(AnswerModel):
    """What waits and runs in a queue, and how fast. The platform's own canaries are left out."""

    name: str
    paused: bool
    paused_since: Moment | None
    depth: Annotated[int, Field(ge=0, description="How many tasks are queued: due, and not running.")]
    scheduled: Annotated[int, Field(ge=0, description="How many tasks wait for their `run_at`.")]
    retrying: Annotated[int, Field(ge=0, description="How many tasks wait for their next attempt.")]
    running: Count
    oldest_age_seconds: Annotated[
        float | None,
        Field(ge=0, description="How long ago the oldest queued task was submitted; null if none is queued."),
    ]
    started_last_minute: Annotated[int, Field(ge=0, description="How many attempts started.")]
    started_last_hour: Count
    ended_last_minute: Annotated[int, Field(ge=0, description="How many attempts ended, however they ended.")]
    ended_last_hour: Count
    workers: Annotated[int, Field(ge=0, description="How many running worker processes take tasks of this queue.")]
    slots: Annotated[
        int,
        Field(
            ge=0, description="How many attempts these can run at once. Workers may share them among several queues."
        ),
    ]
    predicted_wait_seconds: Annotated[
        float | None,
        Field(
            ge=0,
            description="In how many seconds the last queued task starts, at the rate of the last minute; null if it is not "
            "known, because the queue is paused, has no worker, or started nothing in the last minute.",
        ),
    ]


class PausedKind(AnswerModel):
    """A kind whose tasks are paused, in whichever queue."""

    kind: str
    since: Moment


class QueueList(AnswerModel):
    """Every queue, and the kinds that are paused."""

    items: list[QueueState]
    paused_kinds: list[PausedKind]


class KindPause(AnswerModel):
    """Whether a kind is paused."""

    kind: str
    paused: bool
    paused_since: Moment | None


class RunningTask(AnswerModel):
    """A task that a worker runs now."""

    task_id: UUID
    kind: str
    queue: str
    started_at: Moment


class Worker(AnswerModel):
    """A worker process."""

    name: Annotated[str, Field(description="The name of the process, which logs and the histories of tasks contain.")]
    host: str
    alive: Annotated[bool, Field(description="Whether it showed a sign of life in the last 15 seconds.")]
    last_sign_of_life_at: Moment
    since: Annotated[Moment, Field(description="When it started to take tasks.")]
    version: Annotated[str | None, Field(description="Its version of Taskmill; null if that is too old to say.")]
    queues: Annotated[list[str] | None, Field(description="The queues whose tasks it takes; null as for `version`.")]
    slots: Annotated[
        int | None, Field(ge=1, description="How many attempts it can run at once; null as for `version`.")
    ]
    busy: Annotated[int, Field(ge=0, description="How many attempts it runs.")]
    running: list[RunningTask]


class WorkerList(AnswerModel):
    """The running worker processes, and those that were killed in the last day, by name."""

    items: list[Worker]
