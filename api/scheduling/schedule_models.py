"""Pydantic models of schedules: the answers, and the fields of requests."""

from __future__ import annotations

from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from api.http.answers import AnswerModel, Moment, Path
from shared.schedules.slots import Missed
from shared.tasks.options import LONGEST_WAIT_SECONDS, Backoff, ConcurrencyLimit, RateLimit
from shared.tasks.timestamps import Timestamp

Cron = Annotated[
    str,
    Field(
        max_length=200,
        description="Five fields (minute, hour, day of month, month, day of week), or `@hourly`, `@daily`, `@weekly`, "
        "`@monthly`, `@yearly`; either this or `every`.",
        examples=["30 2 * * MON-FRI"],
    ),
]
Every = Annotated[
    int, Field(ge=1, le=LONGEST_WAIT_SECONDS, description="An interval in seconds; either this or `cron`.")
]
Timezone = Annotated[
    str,
    Field(max_length=64, description="The IANA time zone in which `cron` is interpreted.", examples=["Europe/Berlin"]),
]


class RuleFields(BaseModel):
    """When a schedule runs."""

    model_config = ConfigDict(extra="forbid", strict=True)

    cron: Cron | None = None
    every: Every | None = None
    timezone: Timezone = "UTC"
    starts_at: Annotated[Timestamp | None, Field(description="It runs at this moment at the earliest.")] = None
    ends_at: Annotated[Timestamp | None, Field(description="It runs at this moment at the latest.")] = None


class ScheduleFields(RuleFields):
    """The fields of a schedule besides the task that it submits."""

    name: Annotated[str, Field(min_length=1, max_length=100, description="Unique within the organization.")]
    enabled: Annotated[bool, Field(description="Whether it runs.")] = True
    missed: Annotated[
        Missed,
        Field(
            description="What happens to times that are more than a minute late because beat was not running: `skip` submits no "
            "task, `run_once` one for the latest of them, `run_all` one for each (at most 100)."
        ),
    ] = Missed.SKIP
    overlap: Annotated[
        Literal["allow", "skip"],
        Field(
            description="`skip` submits no task while a task of an earlier time is not done; of several times that were "
            "missed, only the latest then gets a task."
        ),
    ] = "allow"
    jitter: Annotated[
        int,
        Field(
            ge=0,
            le=86_400,
            description="Each task starts up to this many seconds late, to spread the load. Its `ttl` counts from then.",
        ),
    ] = 0


class ScheduleRun(AnswerModel):
    """One time at which a schedule submitted a task."""

    at: Moment
    task_id: Annotated[UUID, Field(description="The task; for a workflow, that of its first step.")]
    workflow_id: Annotated[UUID | None, Field(description="The workflow, if it is one, until it is purged.")]
    status: Annotated[str | None, Field(description="The status of the task or workflow; null once it was purged.")]


class ScheduleError(AnswerModel):
    """Why no task was submitted at the last time."""

    type: Path
    title: str
    detail: str


class ScheduleWebhook(AnswerModel):
    """Where each task of a schedule is posted when it has ended. The secret is not shown."""

    url: str


class ScheduleNotify(AnswerModel):
    """Who gets an email when a task of a schedule has ended, and after which statuses."""

    email: list[str]
    on: list[str]


class ScheduleLinks(AnswerModel):
    """The routes of a schedule."""

    self: Path
    run: Path


class Schedule(AnswerModel):
    """A schedule: when it runs, and the task that it submits, in the form that `POST /schedules` takes."""

    id: UUID
    name: str
    enabled: bool
    cron: str | None
    every: int | None
    timezone: str
    starts_at: Moment | None
    ends_at: Moment | None
    missed: Missed
    overlap: Literal["allow", "skip"]
    jitter: int
    description: Annotated[str, Field(description="The rule in plain words.")]
    kind: Annotated[str | None, Field(description="The kind of the task; null for a workflow.")]
    params: dict[str, Any]
    workflow: Annotated[
        dict[str, Any] | None, Field(description="The workflow that it submits, as `POST /workflows` takes it.")
    ]
    priority: int
    ttl: int | None
    max_attempts: int | None
    timeout: int | None
    keep_for: int
    tags: list[str]
    metadata: dict[str, str]
    backoff: Backoff | None
    concurrency: ConcurrencyLimit | None
    rate: RateLimit | None
    webhook: ScheduleWebhook | None
    notify: ScheduleNotify | None
    next_at: Annotated[
        Moment | None, Field(description="When it runs next; null while it is disabled, or when it has ended.")
    ]
    next_times: Annotated[
        list[Moment],
        Field(default_factory=list, description="The next five times; only in the answer for one schedule."),
    ]
    last_runs: Annotated[
        list[ScheduleRun],
        Field(
            default_factory=list, description="The last ten runs, newest first; only in the answer for one schedule."
        ),
    ]
    last_error: ScheduleError | None
    created_at: Moment
    updated_at: Moment
    links: ScheduleLinks


class SchedulePage(AnswerModel):
    """One page of a list of schedules."""

    items: list[Schedule]
    next_cursor: str | None


class SchedulePreview(AnswerModel):
    """When a rule runs."""

    description: Annotated[str, Field(description="The rule in plain words.")]
    times: Annotated[list[Moment], Field(description="The next ten times.")]
