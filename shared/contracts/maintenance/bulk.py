"""`maintenance.bulk`: cancels, retries or deletes many tasks for a caller, as `POST /tasks/bulk` asks."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from pydantic import Field

from shared.contracts.kind import Kind, Params, Result, RetryPolicy
from shared.tasks.filters import BulkAction, TaskFilter


class BulkParams(Params):
    """What is done, and with which tasks."""

    action: Annotated[BulkAction, Field(description="What is done with each task.")]
    filter: Annotated[TaskFilter, Field(description="Conditions that all hold for a task.")]
    organization_id: Annotated[
        UUID | None, Field(description="The organization whose tasks are meant; null for those of all organizations.")
    ]
    count: Annotated[
        int | None,
        Field(ge=0, description="How many tasks there were at the request; null if they were too many to count."),
    ]
    per_second: Annotated[float | None, Field(gt=0, description="How many tasks are taken in a second, at most.")] = (
        None
    )


class BulkResult(Result):
    """How many tasks were changed, and how many were left as they are."""

    changed: int
    refused: Annotated[
        dict[str, int],
        Field(description="Tasks that were left as they are, by the name of the problem: see `GET /problems/<name>`."),
    ]


KIND = Kind(
    params=BulkParams,
    result=BulkResult,
    title="Cancel, retry or delete many tasks",
    description="Cancels, retries or deletes the tasks that fit a filter and were created before it, in small steps. "
    "An attempt after a lost one continues where the last step ended.",
    queue="maintenance",
    max_attempts=20,
    timeout_seconds=6 * 3600,
    retry=RetryPolicy(first_seconds=1, longest_seconds=60),
    uses_files=False,
    public=False,
)
