"""Stores, cancels and deletes workflows for callers who may see them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncEngine

from api.auditing.entries import write_entry
from api.auth.caller import Caller
from api.batcher import HotConnection, HotPool
from api.following.deadlocks import repeat_after_deadlock
from api.following.waiters import Waiters
from api.http.problems import Problem
from api.storage_threads import in_storage_thread
from api.submitting.idempotency import KeyTaken, StoredAnswer
from api.submitting.submissions import Answer, SubmissionRequest, Submissions, store_key_of
from api.workflows.workflow_parsing import ParsedWorkflow
from api.workflows.workflow_reader import WorkflowReader
from shared.audit.actions import AuditAction
from shared.audit.entries import Actor, Entry
from shared.errors import StorageUnavailable
from shared.permissions import Permission
from shared.queries import purging
from shared.queries import tasks as task_queries
from shared.queries import workflows as queries
from shared.storage.object_store import ObjectStore
from shared.stored_secrets import SecretCipher
from shared.workflows.submission import NewWorkflow


class WorkflowActions:
    """The actions of callers on workflows."""

    def __init__(
        self,
        *,
        engine: AsyncEngine,
        pool: HotPool,
        reader: WorkflowReader,
        submissions: Submissions,
        waiters: Waiters,
        store: ObjectStore,
        cipher: SecretCipher,
    ) -> None:
        self._engine = engine
        self._pool = pool
        self._reader = reader
        self._submissions = submissions
        self._waiters = waiters
        self._store = store
        self._cipher = cipher

    async def submit(self, parsed: ParsedWorkflow, request: SubmissionRequest) -> Answer:
        """Store a workflow, and return the answer once it is committed.

        The answer is 202 with the workflow, or the earlier one if the idempotency key was used before.
        """
        request = self._submissions.protect(request, parsed.submissions)
        task_count = len(parsed.plans)
        earlier = await self._submissions.admit(parsed.submissions, task_count, request, self._answer_stored)
        if earlier is not None:
            return earlier
        workflow = NewWorkflow(
            organization_id=request.caller.organization_id,
            owner_id=request.caller.owner_id,
            plans=parsed.plan_for(self._cipher, request.caller.organization_id, request.caller.owner_id),
            name=parsed.name,
            api_key_id=request.caller.key_id,
            request_id=request.request_id,
            traceparent=request.traceparent,
        )

        try:
            return await self.store(workflow, request.caller, lambda hot: store_key_of(hot, request, workflow.id))
        except KeyTaken:
            return await self._submissions.replay(request, lambda: self.submit(parsed, request), self._answer_stored)

    async def store(
        self, workflow: NewWorkflow, caller: Caller, before: Callable[[HotConnection], Awaitable[None]]
    ) -> Answer:
        """Store a workflow and what `before` writes in one transaction, and return the answer."""
        async with self._pool.connection() as connection, connection.transaction():
            await before(connection)
            await connection.execute(queries.INSERT_WORKFLOW, {"document": workflow.document()})
        return await self._answer(workflow.id, caller)

    async def _answer_stored(self, stored: StoredAnswer, caller: Caller) -> Answer:
        return await self._answer(stored.subject_id, caller)

    async def _answer(self, workflow_id: UUID, caller: Caller) -> Answer:
        workflow = await self._reader.require(workflow_id, caller)
        return Answer(202, f"/workflows/{workflow_id}", workflow.model_dump_json(exclude_unset=True).encode())

    async def cancel(self, workflow_id: UUID, caller: Caller, actor: Actor) -> None:
        """Cancel what is left of a workflow. Raises `workflow-done`. Check first that the caller may see it."""

        async def cancel() -> list[UUID]:
            async with self._engine.begin() as connection:
                # In the order of a statement that ends a task: the tasks that have started, then the workflow, then the rest.
                await connection.execute(queries.lock_started_tasks(workflow_id))
                row = (await connection.execute(queries.lock_workflow(workflow_id))).one_or_none()
                if row is None:
                    raise Problem("gone")
                if row.finished_at is not None:
                    raise Problem("workflow-done", f"The workflow is {row.status}, so it cannot be cancelled any more.")
                parameters = {"workflow_id": workflow_id}
                await connection.exec_driver_sql(queries.REQUEST_CANCEL, parameters)
                ids = list((await connection.execute(queries.list_task_ids(workflow_id))).scalars())
                changed = (await connection.exec_driver_sql(task_queries.CANCEL, {"ids": ids})).scalars().all()
                await connection.exec_driver_sql(queries.ADVANCE, parameters)
                if row.owner_id != caller.owner_id:
                    entry = Entry(actor, AuditAction.WORKFLOW_CANCELLED, workflow_id, row.organization_id)
                    await write_entry(connection, entry)
            return list(changed)

        await self._waiters.wake_everywhere(await repeat_after_deadlock(cancel))

    async def delete(self, workflow_id: UUID, caller: Caller, actor: Actor) -> None:
        """Erase a finished workflow with its tasks and their artifacts.

        Raises `forbidden`, `workflow-not-done` or `file-in-use`. Check first that the caller may see it.
        """
        async with self._engine.begin() as connection:
            row = (await connection.execute(queries.lock_workflow(workflow_id))).one_or_none()
            if row is None:
                raise Problem("gone")
            caller.require_for(Permission.TASKS_DELETE, row.organization_id)
            if row.finished_at is None:
                raise Problem("workflow-not-done")
            ids = list((await connection.execute(queries.list_task_ids(workflow_id))).scalars())
            artifacts = (await connection.execute(purging.lock_artifacts(ids))).all()
            in_use = await connection.execute(purging.list_tasks_with_artifacts_in_use(ids))
            if in_use.first() is not None:
                raise Problem("file-in-use", "A task that is not done yet reads an artifact of this workflow.")
            for statement in (*purging.erase_tasks(ids), *queries.erase_workflows([workflow_id])):
                await connection.execute(statement)
            if row.owner_id != caller.owner_id:
                entry = Entry(actor, AuditAction.WORKFLOW_DELETED, workflow_id, row.organization_id)
                await write_entry(connection, entry)
        if artifacts:
            # The rows are deleted. An object that cannot be deleted now is an orphan, which is deleted later.
            with suppress(StorageUnavailable):
                await in_storage_thread(self._store.delete, [artifact.storage_key for artifact in artifacts])
