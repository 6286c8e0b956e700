"""Actions on many tasks: parses the body of `POST /tasks/bulk`, counts the tasks, and makes the submission that does it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Final
from uuid import UUID

import orjson
from psycopg.errors import QueryCanceled
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import AsyncEngine

from api.auth.caller import Caller
from api.following.task_models import TaskCount
from api.http.json_text import load_json
from api.http.problems import invalid, invalid_body
from api.submitting.parsing import Parsed
from shared.contracts.maintenance.bulk import KIND, BulkParams
from shared.permissions import Permission
from shared.queries import tasks as queries
from shared.tasks.filters import BulkAction, TaskFilter
from shared.tasks.options import TaskOptions
from shared.tasks.states import TaskStatus

BULK_KIND: Final = "maintenance.bulk"
QUEUE: Final = "maintenance"
MAX_COUNTED: Final = 1_000_000
FASTEST: Final = 10_000
SLOWEST: Final = 0.1


class BulkRequest(BaseModel):
    """What is done, and with which tasks."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    action: BulkAction
    filter: Annotated[TaskFilter, Field(description="The tasks: those for which every condition holds.")]
    all: Annotated[
        bool, Field(description="Whether a filter without a condition is meant, which is refused otherwise.")
    ] = False
    dry_run: Annotated[bool, Field(description="Whether the tasks are only counted.")] = False
    per_second: Annotated[
        float | None,
        Field(
            ge=SLOWEST,
            le=FASTEST,
            allow_inf_nan=False,
            description="How many tasks are taken in a second, at most. By default they are taken at once.",
        ),
    ] = None


@dataclass(frozen=True)
class ParsedBulk:
    """A validated action on many tasks."""

    action: BulkAction
    filter: TaskFilter
    """Only tasks for which the action is possible."""
    organization_id: UUID | None
    per_second: float | None
    dry_run: bool

    def submission(self, count: TaskCount) -> Parsed:
        """Return the submission of the task that does it."""
        params = BulkParams(
            action=self.action,
            filter=self.filter,
            organization_id=self.organization_id,
            count=count.count,
            per_second=self.per_second,
        )
        filtered = self.filter.model_dump_json(exclude_none=True).encode()
        text = orjson.dumps({**params.model_dump(mode="json"), "filter": orjson.Fragment(filtered)})
        return Parsed(BULK_KIND, KIND, TaskOptions(), text, QUEUE)


def bulk_components() -> dict[str, dict[str, Any]]:
    """Return the schemas of the body, by component."""
    schema = BulkRequest.model_json_schema(ref_template="#/components/schemas/{model}")
    return {**schema.pop("$defs"), "BulkRequest": schema}


def parse_bulk(body: bytes, caller: Caller) -> ParsedBulk:
    """Return the validated action. Raises the problem `validation`.

    Only tasks for which the caller could do the same one by one are meant: operators see and retry those of every
    organization, but delete those of their own.
    """
    if not isinstance(load_json(body), dict):
        raise invalid("", "dict_type", "Input should be an object")
    try:
        request = BulkRequest.model_validate_json(body, strict=True)
    except ValidationError as error:
        raise invalid_body(error) from None
    if not request.filter.conditions() and not request.all:
        message = 'An empty filter means every task. Name a condition, or send "all": true if every task is meant.'
        raise invalid("/filter", "empty", message)
    possible = request.action.statuses
    statuses = set(request.filter.status or possible) & possible
    if not statuses:
        names = ", ".join(sorted(possible))
        message = f"No task with such a status can be the object of {request.action}: it needs one of {names}."
        raise invalid("/filter/status", "impossible", message)
    narrowed = request.filter.model_copy(update={"status": tuple(sorted(statuses, key=list(TaskStatus).index))})
    permission = Permission.TASKS_DELETE if request.action is BulkAction.DELETE else Permission.TASKS_ACT
    caller.require(permission)
    return ParsedBulk(request.action, narrowed, caller.reach_of(permission), request.per_second, request.dry_run)


async def count_tasks(engine: AsyncEngine, bulk: ParsedBulk) -> TaskCount:
    """Count the tasks, up to `MAX_COUNTED` and for as long as `queries.LIMIT_COUNTING` allows."""
    statement = queries.count_tasks(bulk.organization_id, bulk.filter, MAX_COUNTED + 1)
    try:
        async with engine.begin() as connection:
            await connection.exec_driver_sql(queries.LIMIT_COUNTING)
            count: int = (await connection.execute(statement)).scalar_one()
    except OperationalError as error:
        if isinstance(error.orig, QueryCanceled):
            return TaskCount(action=bulk.action, count=None, exact=False)
        raise
    return TaskCount(action=bulk.action, count=min(count, MAX_COUNTED), exact=count <= MAX_COUNTED)
