"""Pydantic models of workflows: the answers, and the fields of a step beside those of a submission."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from api.following.task_models import TaskError
from api.http.answers import AnswerModel, Moment, Path
from shared.tasks.states import TaskStatus
from shared.workflows.references import STEP_NAME

WorkflowStatus = Literal["running", "succeeded", "failed", "cancelled"]
StepName = Annotated[str, Field(pattern=STEP_NAME)]
_FROM: Final = {
    "type": "object",
    "required": ["$from"],
    "properties": {"$from": {"type": "string"}},
    "additionalProperties": False,
}


class StepFields(BaseModel):
    """The fields of a step beside those of a submission."""

    model_config = ConfigDict(extra="forbid", strict=True)

    name: Annotated[StepName, Field(description="Unique within the workflow, and not `item`.")]
    after: Annotated[
        list[StepName],
        Field(
            max_length=100,
            description="The steps that must end before this one starts. Steps that its references name are added.",
        ),
    ] = []
    on_failure: Annotated[
        Literal["cancel", "continue"],
        Field(
            description="What happens to the steps after this one if it does not succeed: they are cancelled, or they start "
            "all the same."
        ),
    ] = "cancel"
    for_each: Annotated[
        dict[str, Any] | None,
        Field(
            description='A reference to a list of an earlier step, such as `{"$from": "make.artifacts"}`. The step has one '
            'task for each element, at most 1,000, and 10,000 in a workflow; `{"$from": "item"}` in its params is the element.',
            json_schema_extra=_FROM,
        ),
    ] = None


class StepTasks(AnswerModel):
    """The tasks of a step with `for_each`."""

    total: Annotated[int, Field(ge=0)]
    counts: Annotated[
        dict[TaskStatus, int], Field(description="How many have each status; a status without tasks is left out.")
    ]


class WorkflowStep(AnswerModel):
    """A step of a workflow as it is now."""

    name: str
    kind: str
    status: Annotated[
        TaskStatus,
        Field(
            description="The status of its task; `scheduled` while it waits for the steps before it. A step with `for_each` is "
            "`running` while any of its tasks is not done, and then `succeeded` if all of them succeeded."
        ),
    ]
    after: Annotated[list[str], Field(description="The steps that must end before this one starts.")]
    on_failure: Literal["cancel", "continue"]
    for_each: Annotated[str | None, Field(description="The list for each of whose elements the step has a task.")]
    task_id: Annotated[UUID | None, Field(description="The task of the step; null for a step with `for_each`.")]
    tasks: Annotated[StepTasks | None, Field(description="The tasks of a step with `for_each`; null for any other.")]
    error: Annotated[
        TaskError | None, Field(description="Why the step ended without being started. Its task shows any other error.")
    ]
    started_at: Moment | None
    finished_at: Moment | None


class WorkflowLinks(AnswerModel):
    """The routes of a workflow."""

    self: Path
    cancel: Path
    tasks: Path


class WorkflowSummary(AnswerModel):
    """A workflow as lists show it."""

    id: UUID
    name: str | None
    status: Annotated[
        WorkflowStatus,
        Field(
            description="`running` until every step has ended. Then `succeeded` if each step succeeded or has "
            "`on_failure: continue`, `cancelled` if a caller cancelled the workflow or a step, else `failed`."
        ),
    ]
    done: bool
    step_counts: Annotated[
        dict[str, int],
        Field(description="How many steps are `waiting`, `running`, `succeeded`, `failed`, `cancelled` or `expired`."),
    ]
    schedule_id: UUID | None
    created_at: Moment
    cancel_requested_at: Moment | None
    finished_at: Moment | None
    links: WorkflowLinks


class Workflow(WorkflowSummary):
    """A workflow with its steps."""

    steps: list[WorkflowStep]


class WorkflowPage(AnswerModel):
    """A page of workflows."""

    items: list[WorkflowSummary]
    next_cursor: Annotated[str | None, Field(description="The `cursor` of the next page; null on the last page.")]
