"""Cancels, retries and deletes tasks whose rows are locked: one for a request, or many for `maintenance.bulk`.

Each function takes the rows that `lock_tasks` returns and changes those tasks that allow it, in the transaction of the
connection.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol
from uuid import UUID

import orjson
import psycopg
from pydantic import ValidationError
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from shared.contracts.catalog import find_kind
from shared.contracts.kind import AnyKind, list_referred_files_in_json
from shared.contracts.secrets import has_secrets
from shared.queries import purging
from shared.queries import tasks as queries
from shared.queries.emails import mark_unknown_as_retriable
from shared.queries.files import lock_input_files
from shared.queries.workflows import (
    erase_workflows,
    list_kept,
    list_unstarted_steps,
    list_workflow_ids,
    lock_workflows_of,
)
from shared.tasks.filters import BulkAction
from shared.tasks.states import RETRIABLE, TaskStatus


class LockedTask(Protocol):
    """A row that `lock_tasks` returns."""

    id: UUID
    status: str
    kind: str
    organization_id: UUID
    owner_id: UUID
    workflow_id: UUID | None


class Refusal(NamedTuple):
    """Why a task was left as it is."""

    problem: str
    """The name of the problem, such as `task-done`."""
    detail: str


@dataclass
class Changes:
    """What an action did."""

    changed: list[UUID] = field(default_factory=list)
    refused: dict[UUID, Refusal] = field(default_factory=dict)
    storage_keys: list[str] = field(default_factory=list)
    """The keys of objects that are to be deleted once the transaction is committed."""


def apply_action(
    action: BulkAction, connection: Connection, tasks: Sequence[LockedTask], *, privileged: bool
) -> Changes:
    """Cancel, retry or delete tasks. `privileged` is whether an operator or an admin asked for it."""
    if action is BulkAction.RETRY:
        return retry_tasks(connection, tasks, privileged=privileged)
    return (cancel_tasks if action is BulkAction.CANCEL else delete_tasks)(connection, tasks)


def lock_tasks(connection: Connection, task_ids: Sequence[UUID], *, skip_locked: bool = False) -> Sequence[LockedTask]:
    """Lock the rows of tasks until the transaction ends, and return those that exist, in the order of ids.

    A statement that ends a task locks it, then its workflow, then the steps that wait for it. A caller's action, which may
    begin with a step that waits, has to keep the same order, or both could wait for each other: first the tasks that have
    started, then the workflows of all tasks, then the other tasks. (A step that starts between these statements is locked
    too late. If it also ends meanwhile, Postgres finds the deadlock, and the transaction has to be repeated.)

    With `skip_locked`, tasks are left out instead of waited for if another transaction has locked them or their workflow.
    """
    rows = list(connection.execute(queries.lock_started_tasks(task_ids, skip_locked=skip_locked)))
    if len(rows) == len(task_ids) and all(row.workflow_id is None for row in rows):
        return rows
    workflow_ids = set(connection.execute(lock_workflows_of(task_ids, skip_locked=skip_locked)).scalars())
    others = list(set(task_ids).difference(row.id for row in rows))
    rows += connection.execute(queries.lock_tasks(others, workflow_ids, skip_locked=skip_locked))
    return sorted((row for row in rows if row.workflow_id in {None, *workflow_ids}), key=lambda row: row.id)


def cancel_tasks(connection: Connection, tasks: Sequence[LockedTask]) -> Changes:
    """Cancel tasks that are not running, and request the cancellation of running ones. Refuses with `task-done`."""
    changes = Changes()
    for task in tasks:
        if TaskStatus(task.status).done:
            detail = f"The task is {task.status}, so it cannot be cancelled any more."
            changes.refused[task.id] = Refusal("task-done", detail)
    live = [task.id for task in tasks if task.id not in changes.refused]
    # A task whose cancellation was requested before is neither changed nor refused.
    changes.changed = list(connection.exec_driver_sql(queries.CANCEL, {"ids": live}).scalars())
    return changes


def retry_tasks(connection: Connection, tasks: Sequence[LockedTask], *, privileged: bool) -> Changes:
    """Queue failed, cancelled or expired tasks again, each with the attempts of its kind added to its own.

    Refuses with `task-not-retriable`, `input-gone` or, unless an operator or an admin asks for it (`privileged`), `forbidden`:
    an action on the tasks of all organizations belongs to the organization of the operator who submitted it.
    """
    changes = Changes()
    kinds: dict[UUID, AnyKind] = {}
    for task in tasks:
        kind = find_kind(task.kind)
        if task.status not in RETRIABLE or kind is None:
            detail = f"The task is {task.status}, so it cannot be retried."
            changes.refused[task.id] = Refusal("task-not-retriable", detail)
        elif not (privileged or kind.public):
            detail = f"Only operators and admins may retry tasks of the kind {task.kind}. Make the request again that submitted it."
            changes.refused[task.id] = Refusal("forbidden", detail)
        else:
            kinds[task.id] = kind
    # The params of a step that waited for others are incomplete until it starts.
    unstarted = set(connection.execute(list_unstarted_steps(list(kinds))).scalars())
    started = {task_id: kind for task_id, kind in kinds.items() if task_id not in unstarted}
    changes.refused |= _find_unusable_inputs(connection, started)
    ids = [task_id for task_id in kinds if task_id not in changes.refused]
    connection.execute(mark_unknown_as_retriable(ids))
    _queue_again(connection, {task_id: kinds[task_id].max_attempts for task_id in ids}, changes)
    return changes


def delete_tasks(connection: Connection, tasks: Sequence[LockedTask]) -> Changes:
    """Erase done tasks, their payloads and the rows of their artifacts.

    Refuses with `task-not-done`, `workflow-not-done` or `file-in-use`.
    """
    changes = Changes()
    for task in tasks:
        if not TaskStatus(task.status).done:
            detail = f"The task is {task.status}. Cancel it and wait until it is done, then delete it."
            changes.refused[task.id] = Refusal("task-not-done", detail)
    for task_id in connection.execute(list_kept([task.id for task in tasks])).scalars():
        detail = "The task is a step of a workflow that is not done."
        changes.refused.setdefault(task_id, Refusal("workflow-not-done", detail))
    done = [task.id for task in tasks if task.id not in changes.refused]
    artifacts = connection.execute(purging.lock_artifacts(done)).all()
    detail = "A task that is not done yet reads an artifact of this task."
    for task_id in connection.execute(purging.list_tasks_with_artifacts_in_use(done)).scalars():
        changes.refused[task_id] = Refusal("file-in-use", detail)
    changes.changed = [task_id for task_id in done if task_id not in changes.refused]
    workflow_ids = list(connection.execute(list_workflow_ids(changes.changed)).scalars())
    for statement in (*purging.erase_tasks(changes.changed), *erase_workflows(workflow_ids)):
        connection.execute(statement)
    changes.storage_keys = [row.storage_key for row in artifacts if row.task_id not in changes.refused]
    return changes


def _queue_again(connection: Connection, kind_attempts: Mapping[UUID, int], changes: Changes) -> None:
    """Queue tasks again, and note in `changes` which of them could be.

    The database refuses a step of a workflow that cannot start yet with an error that undoes the statement for all tasks, so
    each half of them is then tried by itself.
    """
    ids = list(kind_attempts)
    try:
        with connection.begin_nested():
            parameters = {"ids": ids, "kind_attempts": list(kind_attempts.values())}
            changed = list(connection.exec_driver_sql(queries.RETRY, parameters).scalars())
    except DBAPIError as error:
        if not isinstance(error.orig, psycopg.Error) or error.orig.sqlstate != queries.NOT_RETRIABLE:
            raise
        if len(ids) == 1:
            changes.refused[ids[0]] = Refusal("task-not-retriable", error.orig.diag.message_primary or "")
            return
        for half in (ids[: len(ids) // 2], ids[len(ids) // 2 :]):
            _queue_again(connection, {task_id: kind_attempts[task_id] for task_id in half}, changes)
        return
    changes.changed += changed
    detail = "The task was retried so often that no attempts can be added. Submit it again."
    for task_id in set(ids).difference(changed):
        changes.refused[task_id] = Refusal("task-not-retriable", detail)


def _find_unusable_inputs(connection: Connection, kinds: Mapping[UUID, AnyKind]) -> dict[UUID, Refusal]:
    """Return a refusal for each task whose stored params no longer fit its kind, or an input file of which is gone."""
    refused: dict[UUID, Refusal] = {}
    inputs: dict[UUID, set[UUID]] = {}
    for row in connection.execute(queries.list_params(list(kinds))):
        model = kinds[row.task_id].params
        try:
            if not has_secrets(model):
                model.model_validate_json(orjson.dumps(row.params))
        except ValidationError:
            detail = "The params of the task no longer fit its kind. Submit a new task."
            refused[row.task_id] = Refusal("task-not-retriable", detail)
        else:
            inputs[row.task_id] = {file.file_id for file in list_referred_files_in_json(model, row.params)}
    if wanted := set().union(*inputs.values()):
        present = {file.id for file in connection.execute(lock_input_files(wanted))}
        gone = Refusal("input-gone", "A file that the task reads was deleted. Upload it again, and submit a new task.")
        refused |= {task_id: gone for task_id, files in inputs.items() if not files <= present}
    return refused
