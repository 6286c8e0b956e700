"""The filters of streams of many tasks, in a query and in a WebSocket message: those of the list of tasks."""

from __future__ import annotations

from typing import Annotated, Final, Literal
from uuid import UUID

from pydantic import Field

from api.auth.authentication import Caller
from api.http.problems import invalid
from api.http.query_strings import StrictQuery
from api.streaming.feed_stream import EventFilter
from shared.contracts.kind import QUEUES
from shared.tasks.states import TaskStatus
from shared.tasks.timestamps import Timestamp

_ALL_STATUSES: Final = ", ".join(TaskStatus)


class FilterFields(StrictQuery):
    """Which tasks' events a stream contains: those of tasks that pass every filter."""

    status: Annotated[
        str | None,
        Field(
            description="One or more statuses, separated by commas: events after which the task has one of them. With "
            "progress and log lines, a task is `running`."
        ),
    ] = None
    kind: Annotated[str | None, Field(max_length=100)] = None
    queue: Literal[QUEUES] | None = None  # type: ignore[valid-type]
    tag: Annotated[str | None, Field(max_length=64)] = None
    batch_id: UUID | None = None
    owner: Annotated[
        UUID | None, Field(description="The id of the caller who submitted the tasks. By default it is you.")
    ] = None
    created_after: Annotated[Timestamp | None, Field(description="Tasks created at this moment or later.")] = None
    created_before: Annotated[Timestamp | None, Field(description="Tasks created earlier than this moment.")] = None

    def as_filter(self, caller: Caller, pointer: str) -> EventFilter:
        """Return the filter. Raises the problem `validation`, at `pointer` and the name of the field, for unknown statuses."""
        statuses = frozenset(self.status.split(",")) if self.status is not None else frozenset()
        if not statuses <= set(TaskStatus):
            raise invalid(f"{pointer}status", "enum", f"Must be statuses separated by commas, of {_ALL_STATUSES}.")
        return EventFilter(
            owner_id=self.owner or caller.owner_id,
            organization_id=caller.visible_organization_id,
            statuses=statuses,
            kind=self.kind,
            queue=self.queue,
            tag=self.tag,
            batch_id=self.batch_id,
            created_after=self.created_after,
            created_before=self.created_before,
        )
