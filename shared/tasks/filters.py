"""Which tasks a list shows, and which tasks an action on many tasks is for."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, Final
from uuid import UUID

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from shared.tasks.states import DONE, LIVE, RETRIABLE, TaskStatus
from shared.tasks.timestamps import Timestamp

MAX_FILTER_IDS: Final = 1000


class BulkAction(StrEnum):
    """What can be done with many tasks at once."""

    CANCEL = "cancel"
    RETRY = "retry"
    DELETE = "delete"

    @property
    def statuses(self) -> frozenset[TaskStatus]:
        """The statuses in which a task can be cancelled, retried or deleted."""
        return {BulkAction.CANCEL: LIVE, BulkAction.RETRY: RETRIABLE, BulkAction.DELETE: DONE}[self]


def _read_statuses(value: object) -> object:
    """Return a tuple, which the strict validation of a body requires of a value that is not read from its text."""
    if isinstance(value, str):
        return tuple(value.split(","))
    return tuple(value) if isinstance(value, list) else value


Statuses = Annotated[
    tuple[Annotated[TaskStatus, Field(strict=False)], ...],
    Field(min_length=1, max_length=len(TaskStatus), strict=False),
    BeforeValidator(_read_statuses),
]
"""One or more statuses: a list, or a text with commas between them, as in the query of a list."""


def _complete_error_type(value: str | None) -> str | None:
    """Return the type of an error with its path, which callers may leave out: `timed-out` is `/problems/timed-out`."""
    return f"/problems/{value}" if value and "/" not in value else value


class TaskFilter(BaseModel):
    """Conditions that all hold for a task. Without a condition, every task is meant."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    ids: Annotated[
        tuple[UUID, ...] | None, Field(min_length=1, max_length=MAX_FILTER_IDS, description="The ids of tasks.")
    ] = None
    status: Annotated[
        Statuses | None, Field(description="One or more statuses: a list, or a text with commas between them.")
    ] = None
    kind: Annotated[str | None, Field(max_length=100)] = None
    queue: Annotated[str | None, Field(max_length=100)] = None
    tag: Annotated[str | None, Field(max_length=64)] = None
    batch_id: UUID | None = None
    workflow_id: UUID | None = None
    owner: Annotated[UUID | None, Field(description="The id of the caller who submitted the task.")] = None
    created_after: Annotated[Timestamp | None, Field(description="Tasks created at this moment or later.")] = None
    created_before: Annotated[Timestamp | None, Field(description="Tasks created earlier than this moment.")] = None
    error_type: Annotated[
        str | None,
        Field(
            max_length=200,
            description="The `type` of the error that the task shows, such as `/problems/timed-out` or `timed-out` for short.",
        ),
        AfterValidator(_complete_error_type),
    ] = None
    parent_id: Annotated[UUID | None, Field(description="The task that submitted the task.")] = None
    schedule_id: Annotated[UUID | None, Field(description="The schedule that submitted the task.")] = None
    rerun_of: Annotated[UUID | None, Field(description="The task that the task reruns.")] = None
    metadata: Annotated[
        dict[str, str] | None, Field(min_length=1, description="Keys of the task's metadata with their values.")
    ] = None

    @model_validator(mode="after")
    def _refuse_nul(self) -> TaskFilter:
        texts = {"kind": self.kind, "queue": self.queue, "tag": self.tag, "error_type": self.error_type}
        texts["metadata"] = "".join(text for pair in (self.metadata or {}).items() for text in pair)
        for name, value in texts.items():
            if "\x00" in (value or ""):
                message = "A text must not contain the character U+0000."
                raise PydanticCustomError("nul_character", message, {"pointer": "/" + name})
        return self

    def conditions(self) -> dict[str, Any]:
        """Return the conditions that are set, by name."""
        return {name: value for name in type(self).model_fields if (value := getattr(self, name)) is not None}
