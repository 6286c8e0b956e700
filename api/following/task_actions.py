"""Cancels, retries and deletes tasks for callers who may see them, and wakes the requests that wait for them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from uuid import UUID

from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import AsyncEngine

from api.auditing.entries import write_entry
from api.auth.caller import Caller
from api.following.deadlocks import repeat_after_deadlock
from api.following.task_reader import TaskReader
from api.following.waiters import Waiters
from api.http.problems import Problem
from api.storage_threads import in_storage_thread
from shared.audit.actions import AuditAction
from shared.audit.entries import Actor, Entry
from shared.errors import StorageUnavailable
from shared.permissions import Permission
from shared.queries import tasks as queries
from shared.queries.batches import lock_batch
from shared.storage.object_store import ObjectStore
from shared.tasks.actions import Changes, LockedTask, cancel_tasks, delete_tasks, lock_tasks, retry_tasks


class TaskActions:
    """The actions of callers on submitted tasks and batches."""

    def __init__(self, engine: AsyncEngine, reader: TaskReader, waiters: Waiters, store: ObjectStore) -> None:
        self._engine = engine
        self._reader = reader
        self._waiters = waiters
        self._store = store

    async def cancel(self, task_id: UUID, caller: Caller, actor: Actor) -> None:
        """Cancel a task that is not running, or request the cancellation of a running one. Raises `task-done`."""
        await self._apply(cancel_tasks, task_id, caller, actor, AuditAction.TASK_CANCELLED)
        await self._waiters.wake_everywhere([task_id])

    async def cancel_batch(self, batch_id: UUID, caller: Caller, actor: Actor) -> None:
        """Cancel the tasks of a batch that are not done. Check first that the caller may see the batch."""

        async def cancel() -> Sequence[UUID]:
            async with self._engine.begin() as connection:
                tasks = (await connection.execute(lock_batch(batch_id))).all()
                ids = [task.id for task in tasks]
                if tasks and tasks[0].owner_id != caller.owner_id:
                    entry = Entry(actor, AuditAction.BATCH_CANCELLED, batch_id, tasks[0].organization_id)
                    await write_entry(connection, entry)
                return (await connection.exec_driver_sql(queries.CANCEL, {"ids": ids})).scalars().all()

        await self._waiters.wake_everywhere(await repeat_after_deadlock(cancel))

    async def retry(self, task_id: UUID, caller: Caller, actor: Actor) -> None:
        """Queue a failed, cancelled or expired task again, with the attempts of its kind added to its own.

        Raises `task-not-retriable`, `input-gone` or `forbidden`.
        """
        retry = partial(retry_tasks, privileged=caller.has(Permission.TASKS_SUBMIT_PLATFORM_KINDS))
        await self._apply(retry, task_id, caller, actor, AuditAction.TASK_RETRIED)
        await self._waiters.wake_everywhere([task_id])

    async def delete(self, task_id: UUID, caller: Caller, actor: Actor) -> None:
        """Erase a done task, its payload and its artifacts.

        Raises `forbidden`, `task-not-done`, `workflow-not-done` or `file-in-use`.
        """
        changes = await self._apply(
            delete_tasks, task_id, caller, actor, AuditAction.TASK_DELETED, permission=Permission.TASKS_DELETE
        )
        if changes.storage_keys:
            # The rows are deleted. An object that cannot be deleted now is an orphan, which is deleted later.
            with suppress(StorageUnavailable):
                await in_storage_thread(self._store.delete, changes.storage_keys)

    async def _apply(
        self,
        action: Callable[[Connection, Sequence[LockedTask]], Changes],
        task_id: UUID,
        caller: Caller,
        actor: Actor,
        audited: AuditAction,
        *,
        permission: Permission = Permission.TASKS_ACT,
    ) -> Changes:
        """Lock a task's row and apply an action to it, in a transaction, which also audits it unless the task is the caller's.

        Raises `not-found` or `gone` unless the caller may see the task, and the problem with which the action refuses it.
        """
        await self._reader.require(task_id, caller)

        async def apply() -> Changes:
            async with self._engine.begin() as connection:
                rows = await connection.run_sync(lock_tasks, [task_id])
                if not rows:
                    raise Problem("gone")
                caller.require_for(permission, rows[0].organization_id)
                changes = await connection.run_sync(action, rows)
                if (refusal := changes.refused.get(task_id)) is not None:
                    raise Problem(refusal.problem, refusal.detail)
                if rows[0].owner_id != caller.owner_id:
                    entry = Entry(actor, audited, task_id, rows[0].organization_id, before={"status": rows[0].status})
                    await write_entry(connection, entry)
            return changes

        return await repeat_after_deadlock(apply)
