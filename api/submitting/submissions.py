"""What every way of submitting shares once it is read: checks, storing, idempotency, and the answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import orjson
import psycopg

from api.auth.authentication import Caller
from api.following.task_representation import new_task_json, task_json
from api.http.problems import FieldError, Problem, invalid
from api.services import HotPool, Services
from api.submitting.parsing import Parsed
from shared.identifiers import new_id
from shared.queries import hot_tasks
from shared.queries import submissions as queries
from shared.queries.files import find_files
from shared.tasks.submission import NewTask, make_task, params_sha256, submission_document

RETRY_AFTER_SECONDS: Final = 1


@dataclass
class Answer:
    """What a submission is answered with."""

    status: int
    location: str
    body: bytes
    replayed: bool = False

    def headers(self) -> dict[str, str]:
        """Give the headers of the answer, but those of every private answer."""
        headers = {"Location": self.location}
        if self.status == 202:
            headers["Retry-After"] = str(RETRY_AFTER_SECONDS)
        if self.replayed:
            headers["Idempotency-Replayed"] = "true"
        return headers


@dataclass(frozen=True)
class Request:
    """One submission as it came: by whom, under which id, and with which key."""

    caller: Caller
    request_id: str
    idempotency_key: str | None = None
    fingerprint: str | None = None
    traceparent: str | None = None


class KeyTaken(Exception):
    """The idempotency key stands for another request already."""


class UniqueTaken(Exception):
    """A live task is answered in place of a new one; without an id, it was erased just now."""

    def __init__(self, task_id: UUID | None) -> None:
        super().__init__(task_id)
        self.task_id = task_id


class Submissions:
    """Stores submissions and answers them."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def accept(self, parsed: Parsed, request: Request) -> Answer:
        """Store one task. Answers 202 once it is committed; or what was answered to the same key, or a unique task."""
        if (earlier := await self._admit([parsed], request)) is not None:
            return earlier
        task = self.new_task(parsed, request)
        try:
            if parsed.options.unique_for is not None:
                created_at = await self.store_together([task], request)
            else:
                task.idempotency_key, task.fingerprint = request.idempotency_key, request.fingerprint
                stored = await self._services.batcher.store(task)
                if stored is None:
                    raise KeyTaken
                created_at = stored
        except KeyTaken:
            return await self.replay(request, lambda: self.accept(parsed, request))
        except UniqueTaken as taken:
            return await self._answer_unique(taken.task_id, parsed, request)
        except psycopg.errors.ForeignKeyViolation:
            await self.check_files([parsed], request.caller)
            raise missing_file(parsed.files[0].pointer) from None
        return Answer(202, f"/tasks/{task.id}", new_task_json(task, created_at))

    async def accept_batch(self, batch: Sequence[Parsed], request: Request) -> Answer:
        """Store all tasks or none, in one transaction."""
        if (earlier := await self._admit(batch, request)) is not None:
            return earlier
        batch_id = new_id()
        tasks = [self.new_task(parsed, request) for parsed in batch]
        for task in tasks:
            task.batch_id = batch_id
        try:
            created_at = await self.store_together(tasks, request)
        except KeyTaken:
            return await self.replay(request, lambda: self.accept_batch(batch, request))
        except psycopg.errors.ForeignKeyViolation:
            await self.check_files(batch, request.caller)
            raise missing_file("/tasks") from None
        bodies = [new_task_json(task, created_at) for task in tasks]
        return Answer(202, f"/batches/{batch_id}", batch_json(batch_id, bodies))

    async def _admit(self, batch: Sequence[Parsed], request: Request) -> Answer | None:
        """Check the files and count the tasks as queued, or raise why they cannot be taken.

        What was accepted under the request's key is answered all the same: its files may be gone by now, and the queue
        full.
        """
        try:
            await self.check_files(batch, request.caller)
            await self._services.queue_bounds.admit(request.caller.owner_id, len(batch))
        except Problem as problem:
            if request.idempotency_key is None:
                raise
            refusal = problem

            async def refuse() -> Answer:
                raise refusal

            return await self.replay(request, refuse)
        return None

    def new_task(self, parsed: Parsed, request: Request) -> NewTask:
        """Make the task of a validated submission."""
        caller = request.caller
        task = make_task(
            parsed.kind_name,
            parsed.kind,
            parsed.params,
            parsed.queue,
            parsed.options,
            caller.organization_id,
            caller.owner_id,
        )
        task.api_key_id = caller.key_id
        task.request_id = request.request_id
        task.traceparent = request.traceparent
        task.files = [file.file_id for file in parsed.files]
        return task

    async def check_files(self, batch: Sequence[Parsed], caller: Caller) -> None:
        """Raise a problem unless every file exists, belongs to the caller's organization, and can be read."""
        referred = [file for parsed in batch for file in parsed.files]
        if not referred:
            return
        async with self._services.reads.connect() as connection:
            statement = find_files({file.file_id for file in referred})
            found = {row.id: row for row in await connection.execute(statement)}
        errors = []
        for file in referred:
            row = found.get(file.file_id)
            if row is None or row.organization_id != caller.organization_id:
                errors.append(missing_file(file.pointer).errors[0])
            elif not file.reference.can_read(row.media_type):
                message = f"This kind cannot read {row.media_type}: only {', '.join(file.reference.accepts)}"
                errors.append(FieldError(file.pointer, "unreadable_file", message))
        if errors:
            raise Problem("validation", errors=errors)

    async def store_together(
        self,
        tasks: Sequence[NewTask],
        request: Request,
        before: Callable[[psycopg.AsyncConnection[tuple[Any, ...]]], Any] | None = None,
    ) -> datetime:
        """Store tasks in a transaction of their own, with what `before` writes and the request's key; give `created_at`.

        Raises `KeyTaken` or `UniqueTaken`, having stored nothing.
        """
        pool: HotPool = self._services.hot_pool
        async with pool.connection() as connection, connection.transaction():
            if request.idempotency_key is not None:
                kept = self._kept_key(request, tasks[0].batch_id or tasks[0].id, 202)
                cursor = await connection.execute(queries.KEEP_KEY, kept)
                if await cursor.fetchone() is None:
                    raise KeyTaken
            for task in tasks:
                if task.unique_for is not None:
                    await self._claim_uniqueness(connection, task)
            if before is not None:
                await before(connection)
            document = {"document": submission_document(tasks)}
            statement = hot_tasks.SUBMIT_KEYED if any(task.files for task in tasks) else hot_tasks.SUBMIT
            row = await (await connection.execute(statement, document)).fetchone()
            assert row is not None
            created_at: datetime = row[0]
        return created_at

    async def _claim_uniqueness(self, connection: psycopg.AsyncConnection[tuple[Any, ...]], task: NewTask) -> None:
        parameters = {
            "owner_id": task.owner_id,
            "kind": task.kind,
            "params_sha256": params_sha256(task.params),
            "task_id": task.id,
            "unique_for": task.unique_for,
        }
        if await (await connection.execute(queries.CLAIM_UNIQUENESS, parameters)).fetchone() is None:
            row = await (await connection.execute(queries.FIND_UNIQUE, parameters)).fetchone()
            raise UniqueTaken(row[0] if row is not None else None)

    async def _answer_unique(self, task_id: UUID | None, parsed: Parsed, request: Request) -> Answer:
        """Answer 200 with the live task, and keep the request's key for it: what is answered once is answered again."""
        row = await self._services.reader.find(task_id) if task_id is not None else None
        if row is None:
            # It was erased since, so that it is no longer in the way.
            return await self.accept(parsed, request)
        if request.idempotency_key is not None:
            async with self._services.hot_pool.connection() as connection:
                kept = await connection.execute(queries.KEEP_KEY, self._kept_key(request, row.id, 200))
                taken = await kept.fetchone() is None
            if taken:
                return await self.replay(request, lambda: self.accept(parsed, request))
        return Answer(200, f"/tasks/{row.id}", task_json(row))

    def _kept_key(self, request: Request, subject_id: UUID, status: int) -> dict[str, Any]:
        return {
            "owner_id": request.caller.owner_id,
            "key": request.idempotency_key,
            "fingerprint": bytes.fromhex(request.fingerprint or ""),
            "subject_id": subject_id,
            "status_code": status,
        }

    async def replay(self, request: Request, again: Callable[[], Any]) -> Answer:
        """Answer a request whose key is taken: as before, or with a problem; `again` tries anew when the key is free."""
        parameters = {"owner_id": request.caller.owner_id, "key": request.idempotency_key}
        async with self._services.hot_pool.connection() as connection:
            row = await (await connection.execute(queries.FIND_KEY, parameters)).fetchone()
            if row is None or row[4]:
                await connection.execute(queries.DROP_STALE_KEY, parameters)
        if row is None or row[4]:
            # Only now that the connection is given back: to try anew needs another.
            answer: Answer = await again()
            return answer
        fingerprint, subject_id, status, in_flight, _ = row
        if in_flight:
            raise Problem("idempotency-key-in-flight", headers={"Retry-After": "2"})
        if request.fingerprint is not None and fingerprint.hex() != request.fingerprint:
            raise Problem("idempotency-key-reused")
        answer = await self._answer_existing(subject_id, status)
        answer.replayed = True
        return answer

    async def _answer_existing(self, subject_id: UUID, status: int) -> Answer:
        row = await self._services.reader.find(subject_id)
        if row is not None:
            return Answer(status, f"/tasks/{subject_id}", task_json(row))
        async with self._services.hot_pool.connection() as connection:
            cursor = await connection.execute(queries.LIST_BATCH, {"batch_id": subject_id})
            ids = [task_id for (task_id,) in await cursor.fetchall()]
        if not ids:
            raise Problem("gone", "What this request made was purged since.")
        rows = await self._services.reader.find_many(ids)
        return Answer(status, f"/batches/{subject_id}", batch_json(subject_id, [task_json(row) for row in rows]))


def batch_json(batch_id: UUID, bodies: Sequence[bytes]) -> bytes:
    """Give the body of a batch's answer."""
    return orjson.dumps({"batch_id": batch_id, "tasks": [orjson.Fragment(body) for body in bodies]})


def missing_file(pointer: str) -> Problem:
    """A file that the params refer to is not there."""
    return invalid(pointer, "unknown_file", "There is no such file")
