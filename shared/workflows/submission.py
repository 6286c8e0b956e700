"""Creates the rows of a workflow from its checked steps, both for `POST /workflows` and for a schedule."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, ClassVar, Final
from uuid import UUID

import orjson
from pydantic import TypeAdapter

from shared.identifiers import new_id
from shared.tasks.states import TaskStatus

MAX_STEPS: Final = 100
SCHEDULED_KIND: Final = "workflow"
"""What `schedules.kind` is for a schedule of a workflow. The name of a kind has a dot."""


@dataclass
class StepPlan:
    """One step of a workflow, checked, without anything that belongs to one run of it."""

    name: str
    position: int
    """Its place in the submission."""
    place: int
    """Its place in an order in which every step comes after those that it waits for."""
    after: list[str]
    on_failure: str
    submission: dict[str, Any]
    """A row of `shared.tasks.submission.submission_document`, without ids. Its params may have references in them."""
    refs: list[dict[str, Any]] = field(default_factory=list)
    for_each: dict[str, Any] | None = None

    @property
    def waits(self) -> bool:
        """Whether there are steps before it."""
        return bool(self.after)


_plans: Final = TypeAdapter(list[StepPlan])


def dump_plans(plans: Sequence[StepPlan]) -> Any:
    """Return plans as JSON values, for `load_plans`."""
    return _plans.dump_python(list(plans), mode="json")


def load_plans(document: Any) -> list[StepPlan]:
    """Return the plans that `dump_plans` returned as JSON values."""
    return _plans.validate_python(document)


@dataclass
class NewWorkflow:
    """A workflow, ready to be stored."""

    organization_id: UUID
    owner_id: UUID
    plans: Sequence[StepPlan]
    name: str | None = None
    schedule_id: UUID | None = None
    api_key_id: UUID | None = None
    request_id: str | None = None
    traceparent: str | None = None
    starts_at: datetime | None = None
    """When the steps without others before them start at the earliest."""
    id: UUID = field(default_factory=new_id)
    kind: ClassVar[str] = SCHEDULED_KIND

    def __post_init__(self) -> None:
        self._task_ids = {plan.name: new_id() for plan in self.plans if plan.for_each is None}

    @property
    def first_task_id(self) -> UUID:
        """The task of the first step that starts at once."""
        first = next(plan for plan in self.plans if not plan.waits)
        return self._task_ids[first.name]

    def document(self) -> str:
        """Return the JSON document that `shared.queries.workflows.INSERT_WORKFLOW` inserts from."""
        owner = {
            "organization_id": self.organization_id,
            "owner_id": self.owner_id,
            "api_key_id": self.api_key_id,
            "schedule_id": self.schedule_id,
            "request_id": self.request_id,
            "traceparent": self.traceparent,
        }
        steps, tasks = [], []
        for plan in self.plans:
            submission = {**plan.submission, **owner, "workflow_id": self.id, "workflow_step": plan.name}
            if self.starts_at is not None and not plan.waits and not {"run_at", "delay"} & submission.keys():
                submission |= {"run_at": self.starts_at, "status": TaskStatus.SCHEDULED}
            task_id = self._task_ids.get(plan.name)
            if task_id is not None:
                tasks.append({**(_without_start(submission) if plan.waits else submission), "task_id": task_id})
            steps.append(
                {
                    "name": plan.name,
                    "place": plan.place,
                    "position": plan.position,
                    "after": plan.after,
                    "on_failure": plan.on_failure,
                    "submission": submission,
                    "refs": plan.refs,
                    "for_each": plan.for_each,
                    "task_id": task_id,
                    "status": "waiting" if plan.waits else "running",
                }
            )
        document = {"id": self.id, "name": self.name, **owner, "steps": steps, "tasks": tasks}
        return orjson.dumps(document).decode()


def _without_start(submission: Mapping[str, Any]) -> dict[str, Any]:
    """Return the row of a task that waits for others: `run_at` and `delay` count once these have ended."""
    return {
        **{name: value for name, value in submission.items() if name not in {"run_at", "delay"}},
        "status": TaskStatus.SCHEDULED,
    }
