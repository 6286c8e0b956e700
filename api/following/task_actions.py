"""Cancels, retries and deletes tasks for callers who may see them, and wakes the requests that wait for them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import NamedTuple
from uuid import UUID

import orjson
import psycopg
from psycopg.errors import CheckViolation
from pydantic import ValidationError
from sqlalchemy import Executable
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from api.auth.authentication import Caller
from api.following.task_reader import TaskReader
from api.following.waiters import Waiters
from api.http.problems import Problem
from api.storage_threads import in_storage_thread
from shared.contracts.catalog import find_kind
from shared.contracts.kind import AnyKind, list_referred_files
from shared.errors import StorageUnavailable
from shared.queries import purging
from shared.queries import tasks as queries
from shared.queries.batches import lock_batch
from shared.queries.emails import mark_unknown_as_retriable
from shared.queries.files import lock_input_files
from shared.queries.workflows import erase_workflows, find_kept, find_unstarted_step, list_workflow_ids
from shared.storage.object_store import ObjectStore
from shared.tasks.states import RETRIABLE, TaskStatus


class _LockedTask(NamedTuple):
    """A task whose row is locked by the transaction of a connection."""

    connection: AsyncConnection
    status: TaskStatus
    kind: str
    organization_id: UUID


class TaskActions:
    """The actions of callers on submitted tasks and batches."""

    def __init__(self, engine: AsyncEngine, reader: TaskReader, waiters: Waiters, store: ObjectStore) -> None:
        self._engine = engine
        self._reader = reader
        self._waiters = waiters
        self._store = store

    async def cancel(self, task_id: UUID, caller: Caller) -> None:
        """Cancel a task that is not running, or request the cancellation of a running one. Raises `task-done`."""
        async with self._lock(task_id, caller) as task:
            if task.status.done:
                raise Problem("task-done", f"The task is {task.status}, so it cannot be cancelled any more.")
            await task.connection.exec_driver_sql(queries.CANCEL, {"ids": [task_id]})
        await self._waiters.wake_everywhere([task_id])

    async def cancel_batch(self, batch_id: UUID) -> None:
        """Cancel the tasks of a batch that are not done. Check first that the caller may see the batch."""
        async with self._engine.begin() as connection:
            ids = list((await connection.execute(lock_batch(batch_id))).scalars())
            changed = (await connection.exec_driver_sql(queries.CANCEL, {"ids": ids})).scalars().all()
        await self._waiters.wake_everywhere(changed)

    async def retry(self, task_id: UUID, caller: Caller) -> None:
        """Queue a failed, cancelled or expired task again, with the attempts of its kind added to its own.

        Raises `task-not-retriable` or `input-gone`.
        """
        async with self._lock(task_id, caller) as task:
            kind = find_kind(task.kind)
            if task.status not in RETRIABLE or kind is None:
                raise Problem("task-not-retriable", f"The task is {task.status}, so it cannot be retried.")
            is_unstarted_step = (await task.connection.execute(find_unstarted_step(task_id))).first() is not None
            if not is_unstarted_step:
                await _require_inputs(task.connection, task_id, kind)
            await task.connection.execute(mark_unknown_as_retriable(task_id))
            parameters = {"id": task_id, "kind_attempts": kind.max_attempts}
            try:
                await task.connection.exec_driver_sql(queries.RETRY, parameters)
            except IntegrityError as error:
                if isinstance(error.orig, CheckViolation):
                    message = "The task was retried so often that no attempts can be added. Submit it again."
                    raise Problem("task-not-retriable", message) from None
                raise
            except DBAPIError as error:
                if getattr(error.orig, "sqlstate", None) == queries.NOT_RETRIABLE:
                    raise Problem("task-not-retriable", _message(error)) from None
                raise
        await self._waiters.wake_everywhere([task_id])

    async def delete(self, task_id: UUID, caller: Caller) -> None:
        """Erase a done task, its payload and its artifacts.

        Raises `forbidden`, `task-not-done`, `workflow-not-done` or `file-in-use`.
        """
        async with self._lock(task_id, caller) as task:
            caller.require_may_change(task.organization_id)
            if not task.status.done:
                message = f"The task is {task.status}. Cancel it and wait until it is done, then delete it."
                raise Problem("task-not-done", message)
            if (await task.connection.execute(find_kept(task_id))).first() is not None:
                raise Problem("workflow-not-done", "The task is a step of a workflow that is not done.")
            artifacts = (await task.connection.execute(purging.lock_artifacts([task_id]))).all()
            in_use = await task.connection.execute(purging.list_tasks_with_artifacts_in_use([task_id]))
            if in_use.first() is not None:
                raise Problem("file-in-use", "A task that is not done yet reads an artifact of this task.")
            statement: Executable
            workflow_ids = list((await task.connection.execute(list_workflow_ids([task_id]))).scalars())
            for statement in (*purging.erase_tasks([task_id]), *erase_workflows(workflow_ids)):
                await task.connection.execute(statement)
        if artifacts:
            # The rows are deleted. An object that cannot be deleted now is an orphan, which is deleted later.
            with suppress(StorageUnavailable):
                await in_storage_thread(self._store.delete, [artifact.storage_key for artifact in artifacts])

    @asynccontextmanager
    async def _lock(self, task_id: UUID, caller: Caller) -> AsyncIterator[_LockedTask]:
        """Lock a task's row in a transaction. Raises `not-found` or `gone` unless the caller may see the task."""
        await self._reader.require(task_id, caller)
        async with self._engine.begin() as connection:
            row = (await connection.execute(queries.lock_task(task_id))).one_or_none()
            if row is None:
                raise Problem("gone")
            yield _LockedTask(connection, TaskStatus(row.status), row.kind, row.organization_id)


def _message(error: DBAPIError) -> str:
    """Return the message of an error that a function of the database raised."""
    assert isinstance(error.orig, psycopg.Error)
    return error.orig.diag.message_primary or ""


async def _require_inputs(connection: AsyncConnection, task_id: UUID, kind: AnyKind) -> None:
    """Raise a problem unless the stored params still fit the kind and every input file still exists."""
    stored = (await connection.execute(queries.read_params(task_id))).scalar_one()
    try:
        params = kind.params.model_validate_json(orjson.dumps(stored))
    except ValidationError:
        message = "The params of the task no longer fit its kind. Submit a new task."
        raise Problem("task-not-retriable", message) from None
    inputs = {file.file_id for file in list_referred_files(params)}
    if inputs:
        present = {file.id for file in await connection.execute(lock_input_files(inputs))}
        if present != inputs:
            raise Problem("input-gone")
