"""Reads the filters of lists of tasks from the query, and describes tasks for lists in other formats than JSON."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal, Self
from uuid import UUID

from pydantic import ConfigDict, Field

from api.auth.caller import Caller
from api.http.list_formats import Columns
from api.http.problems import invalid, nul_character
from api.http.query_strings import StrictQuery
from shared.contracts.kind import QUEUES
from shared.permissions import Permission
from shared.tasks.filters import TaskFilter
from shared.tasks.states import TaskStatus
from shared.tasks.timestamps import Timestamp

METADATA_PREFIX: Final = "metadata."
METADATA_PARAMETER: Final[dict[str, Any]] = {
    "name": "metadata.KEY",
    "in": "query",
    "required": False,
    "schema": {"type": "string"},
    "description": "Tasks whose metadata has the key `KEY` with this value. It may be repeated with other keys.",
}

TASK_COLUMNS: Final[Columns] = {
    "id": ("id",),
    "kind": ("kind",),
    "queue": ("queue",),
    "status": ("status",),
    "attempt": ("attempt",),
    "max_attempts": ("max_attempts",),
    "priority": ("priority",),
    "created_at": ("created_at",),
    "run_at": ("run_at",),
    "next_attempt_at": ("next_attempt_at",),
    "started_at": ("started_at",),
    "finished_at": ("finished_at",),
    "cancel_requested_at": ("cancel_requested_at",),
    "purge_at": ("purge_at",),
    "progress_percent": ("progress", "percent"),
    "progress_message": ("progress", "message"),
    "error_type": ("error", "type"),
    "error_detail": ("error", "detail"),
    "batch_id": ("batch_id",),
    "workflow_id": ("workflow_id",),
    "workflow_step": ("workflow_step",),
    "rerun_of": ("rerun_of",),
    "parent_id": ("parent_id",),
    "schedule_id": ("schedule_id",),
    "tags": ("tags",),
    "metadata": ("metadata",),
    "params": ("params",),
    "result": ("result",),
    "artifacts": ("artifacts",),
}
"""The columns of a list of tasks as CSV."""


def require_visible_conditions(which: TaskFilter, caller: Caller) -> None:
    """Raise the problem `forbidden` if a filter has a condition on what the caller may not see of tasks.

    The tasks that pass it would show what is hidden.
    """
    if which.metadata is not None:
        caller.require(Permission.TASKS_READ_CONTENT)


class FilterQuery(StrictQuery):
    """The filters of a list of tasks. `metadata.KEY` is allowed with any key; other unknown names are refused."""

    model_config = ConfigDict(extra="allow")

    status: Annotated[str | None, Field(description="One or more statuses, separated by commas.")] = None
    kind: Annotated[str | None, Field(max_length=100)] = None
    queue: Literal[QUEUES] | None = None  # type: ignore[valid-type]
    tag: Annotated[str | None, Field(max_length=64)] = None
    batch_id: UUID | None = None
    workflow_id: UUID | None = None
    owner: Annotated[UUID | None, Field(description="The id of the caller who submitted the task.")] = None
    created_after: Annotated[Timestamp | None, Field(description="Tasks created at this moment or later.")] = None
    created_before: Annotated[
        Timestamp | None,
        Field(description="Tasks created earlier than this moment, so that adjoining windows share no task."),
    ] = None
    error_type: Annotated[
        str | None,
        Field(
            max_length=200,
            description="The `type` of the error that the task shows, such as `/problems/timed-out` or `timed-out` for short.",
        ),
    ] = None
    parent_id: Annotated[UUID | None, Field(description="The task that submitted the task.")] = None
    schedule_id: Annotated[UUID | None, Field(description="The schedule that submitted the task.")] = None
    rerun_of: Annotated[UUID | None, Field(description="The task that the task reruns.")] = None

    def require_known_names(self) -> Self:
        """Raise the problem `validation` for an unknown name, and return the query."""
        for name in self.model_extra or {}:
            if not name.startswith(METADATA_PREFIX) or name == METADATA_PREFIX:
                raise invalid(f"query:{name}", "extra_forbidden", "Unknown query parameter")
        return self

    def read_filter(self) -> TaskFilter:
        """Return the filter that the query contains. Raises the problem `validation`."""
        metadata = {name.removeprefix(METADATA_PREFIX): value for name, value in (self.model_extra or {}).items()}
        values = {name: value for name in FilterQuery.model_fields if (value := getattr(self, name)) is not None}
        for name, value in {**values, **(self.model_extra or {})}.items():
            if isinstance(value, str) and "\x00" in name + value:
                raise nul_character(f"query:{name}")
        if self.status is not None:
            values["status"] = tuple(dict.fromkeys(self.status.split(",")))
            if not set(values["status"]) <= set(TaskStatus):
                known = ", ".join(TaskStatus)
                raise invalid("query:status", "enum", f"Must be statuses separated by commas, of {known}.")
        if metadata:
            values["metadata"] = metadata
        return TaskFilter.model_validate(values)
