"""Stores submissions that were read and validated, and answers them.

Every way of submitting ends here: files are looked up, queue bounds are checked, idempotency keys and unique tasks are
checked, and the answer is sent once the tasks are committed.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import NamedTuple, NoReturn
from uuid import UUID

import orjson
import psycopg
from fastapi import Request
from psycopg.rows import class_row
from sqlalchemy.ext.asyncio import AsyncEngine

from api.auth.caller import Caller
from api.batcher import HotConnection, HotPool
from api.following.task_reader import TaskReader
from api.following.task_representation import TaskOrigin, new_task_json, task_json
from api.http.headers import find_header
from api.http.problems import FieldError, Problem, invalid
from api.http.quota_refusals import find_refusal
from api.limits.limit_reader import LimitReader
from api.queues.wait_estimates import WaitEstimates
from api.submitting.idempotency import (
    IdempotencyKeys,
    KeyTaken,
    StoredAnswer,
    fingerprint,
    protect_fingerprint,
    store_key,
)
from api.submitting.parsing import Parsed, ParsedBatch, read_traceparent
from api.submitting.queue_bounds import QueueBounds
from api.submitting.quotas import check_submissions
from api.submitting.submission_batcher import StoredTasks, SubmissionBatcher
from api.webhooks.receiver_hosts import ReceiverHosts
from shared.contracts.secrets import has_secrets
from shared.identifiers import new_id
from shared.limits import NO_LIMITS, HeldLimits
from shared.queries import hot_tasks
from shared.queries import submissions as queries
from shared.queries.batches import INSERT_FOLLOW_UP, LIST_BATCH
from shared.queries.files import find_files
from shared.stored_secrets import SecretCipher
from shared.tasks.follow_ups import make_follow_up
from shared.tasks.secret_params import digest_params, seal_params
from shared.tasks.submission import (
    NewTask,
    make_task,
    needs_keyed_form,
    params_sha256,
    submission_document,
)


@dataclass(frozen=True)
class SubmissionRequest:
    """Who submits, under which request id, and with which idempotency key."""

    caller: Caller
    request_id: str
    idempotency_key: str | None = None
    fingerprint: str | None = None
    """The digest of the request, in hex; None without an idempotency key."""
    traceparent: str | None = None


def submission_request(request: Request, caller: Caller, body: bytes, key: str | None) -> SubmissionRequest:
    """Return the `SubmissionRequest` of a request with a JSON body."""
    return SubmissionRequest(
        caller,
        request.state.request_id,
        key,
        fingerprint(request.method, request.url.path, body) if key is not None else None,
        read_traceparent(find_header(request, "traceparent")),
    )


@dataclass
class Answer:
    """The answer to a submission."""

    status: int
    location: str
    body: bytes
    replayed: bool = False
    retry_after_seconds: int = 1

    def headers(self) -> dict[str, str]:
        """Return the headers of the answer, without `PRIVATE_HEADERS`."""
        headers = {"Location": self.location}
        if self.status == 202:
            headers["Retry-After"] = str(self.retry_after_seconds)
        if self.replayed:
            headers["Idempotency-Replayed"] = "true"
        return headers


AnswerStored = Callable[[StoredAnswer, Caller], Awaitable[Answer]]
"""Makes the answer to a repeated request from what was stored with its idempotency key."""


class UniqueTaken(Exception):
    """A live task of the same owner, kind and params exists, so no new one is stored (`unique_for`)."""

    def __init__(self, task_id: UUID | None) -> None:
        super().__init__(task_id)
        self.task_id = task_id
        """The live task; None when it was erased in the meantime."""


class _TaskId(NamedTuple):
    """The column of `LIST_BATCH`."""

    id: UUID


class _UniqueRow(NamedTuple):
    """The column of `queries.FIND_UNIQUE`."""

    task_id: UUID


class Submissions:
    """Stores submissions and answers them."""

    def __init__(
        self,
        *,
        pool: HotPool,
        reads: AsyncEngine,
        reader: TaskReader,
        batcher: SubmissionBatcher,
        queue_bounds: QueueBounds,
        keys: IdempotencyKeys,
        wait_estimates: WaitEstimates,
        hosts: ReceiverHosts,
        cipher: SecretCipher,
        limits: LimitReader,
        mail_from: str,
    ) -> None:
        self._pool = pool
        self._reads = reads
        self._reader = reader
        self._batcher = batcher
        self._queue_bounds = queue_bounds
        self._keys = keys
        self._wait_estimates = wait_estimates
        self._hosts = hosts
        self._cipher = cipher
        self._limits = limits
        self._mail_from = mail_from

    def protect(self, request: SubmissionRequest, submissions: Sequence[Parsed]) -> SubmissionRequest:
        """Return a request with a keyed digest if a submission has secrets, so that no guess at one can be checked by it."""
        if request.fingerprint is None or not any(has_secrets(parsed.kind.params) for parsed in submissions):
            return request
        return replace(request, fingerprint=protect_fingerprint(request.fingerprint, self._cipher))

    async def accept(
        self,
        parsed: Parsed,
        request: SubmissionRequest,
        before: Callable[[HotConnection, NewTask], Awaitable[None]] | None = None,
    ) -> Answer:
        """Store one task, and what `before` writes in its transaction, and return the answer once it is committed.

        The answer is 202 with the task, the earlier answer if the idempotency key was used before, or 200 with the live
        task for a submission with `unique_for`.
        """
        request = self.protect(request, [parsed])
        if (earlier := await self.admit([parsed], 1, request)) is not None:
            return earlier
        task = self.new_task(parsed, request)
        try:
            if before is not None:
                created_at = await self.store_together([task], request, lambda connection: before(connection, task))
            elif parsed.options.unique_for is not None:
                created_at = await self.store_together([task], request)
            else:
                task.idempotency_key, task.fingerprint = request.idempotency_key, request.fingerprint
                stored = await self._batcher.store(task)
                if stored is None:
                    raise KeyTaken
                created_at = stored
        except KeyTaken:
            return await self.replay(request, lambda: self.accept(parsed, request, before))
        except UniqueTaken as taken:
            return await self._answer_unique(taken.task_id, parsed, request)
        except psycopg.errors.ForeignKeyViolation:
            await self.check_files([parsed], request.caller)
            raise missing_file(parsed.files[0].pointer) from None
        except psycopg.IntegrityError as error:
            if (refusal := find_refusal(error)) is None:
                raise
            # A quota is used up, but a request with this idempotency key may have been answered before.
            return await self._replay_refused(request, refusal.problem())
        body = new_task_json(task, created_at, TaskOrigin.of_new_task(request.caller))
        retry_after_seconds = self._wait_estimates.retry_after_submission_seconds(task)
        return Answer(202, f"/tasks/{task.id}", body, retry_after_seconds=retry_after_seconds)

    async def accept_batch(self, batch: ParsedBatch, request: SubmissionRequest) -> Answer:
        """Store all tasks or none, in one transaction, and return the answer once it is committed."""
        request = self.protect(request, batch.submissions)
        if (earlier := await self.admit(batch.submissions, len(batch.submissions), request)) is not None:
            return earlier
        batch_id = new_id()
        tasks = [self.new_task(parsed, request) for parsed in batch.tasks]
        for task in tasks:
            task.batch_id = batch_id
        on_finished = None if batch.on_finished is None else self.new_task(batch.on_finished, request)

        async def insert_follow_up(connection: HotConnection) -> None:
            # A trigger marks the tasks of the batch as followed, so they must be stored already.
            if on_finished is not None:
                parameters = {"batch_id": batch_id, "submissions": submission_document([on_finished])}
                await connection.execute(INSERT_FOLLOW_UP, parameters)

        try:
            created_at = await self.store_together(tasks, request, after=insert_follow_up)
        except KeyTaken:
            return await self.replay(request, lambda: self.accept_batch(batch, request))
        except psycopg.errors.ForeignKeyViolation:
            await self.check_files(batch.submissions, request.caller)
            raise missing_file("/tasks") from None
        origin = TaskOrigin.of_new_task(request.caller)
        bodies = [new_task_json(task, created_at, origin) for task in tasks]
        return Answer(202, f"/batches/{batch_id}", batch_json(batch_id, bodies))

    async def admit(
        self,
        submissions: Sequence[Parsed],
        task_count: int,
        request: SubmissionRequest,
        answer_stored: AnswerStored | None = None,
    ) -> Answer | None:
        """Check the files and the queue bounds. Raises the problem if the tasks cannot be accepted.

        If they cannot be accepted, but the idempotency key was used before, returns the earlier answer: since then, a file may
        have been deleted or the queue may have become full. Returns None if the tasks can be accepted.
        """
        try:
            await self.check_files(submissions, request.caller)
            await self._queue_bounds.admit(request.caller.owner_id, task_count)
        except Problem as problem:
            return await self._replay_refused(request, problem, answer_stored)
        return None

    def new_task(self, parsed: Parsed, request: SubmissionRequest) -> NewTask:
        """Return the task of a validated submission, not stored yet."""
        caller = request.caller
        task = make_task(
            parsed.kind_name,
            parsed.kind,
            seal_params(parsed.kind, parsed.params, self._cipher),
            parsed.queue,
            parsed.options,
            caller.organization_id,
            caller.owner_id,
        )
        task.api_key_id = caller.key_id
        task.request_id = request.request_id
        task.traceparent = request.traceparent
        task.files = [file.file_id for file in parsed.files]
        task.rerun_of = parsed.rerun_of
        if parsed.options.unique_for is not None:
            task.params_digest = digest_params(parsed.kind, parsed.params, self._cipher)
        if parsed.options.webhook is not None or parsed.options.notify is not None:
            task.follow_up = make_follow_up(parsed.options, self._cipher, caller.organization_id, caller.owner_id)
        return task

    async def read_limits(self, caller: Caller) -> HeldLimits:
        """Return the limits that hold for a caller."""
        return self._limits.find(caller.owner_id) or await self._limits.read(caller.organization_id, caller.owner_id)

    async def check_files(self, batch: Sequence[Parsed], caller: Caller) -> None:
        """Raise a problem unless every input file exists, belongs to the caller's organization, and suits its kind.

        The host of every webhook must resolve, too, and what the submissions ask for must be within the caller's limits.
        """
        held = await self.read_limits(caller)
        if held is not NO_LIMITS:
            check_submissions(held, batch, self._mail_from)
        webhooks = {
            f"{parsed.pointer}/webhook/url": parsed.options.webhook.url for parsed in batch if parsed.options.webhook
        }
        if webhooks:
            await self._hosts.require(webhooks)
        referred = [file for parsed in batch for file in parsed.files]
        if not referred:
            return
        async with self._reads.connect() as connection:
            statement = find_files({file.file_id for file in referred})
            found = {row.id: row for row in await connection.execute(statement)}
        errors = []
        for file in referred:
            row = found.get(file.file_id)
            if row is None or row.organization_id != caller.organization_id:
                errors.append(missing_file(file.pointer).errors[0])
            elif not file.reference.can_read(row.media_type):
                accepted = ", ".join(file.reference.accepts)
                message = f"This kind cannot read a file of the type {row.media_type}; it reads {accepted}."
                errors.append(FieldError(file.pointer, "unreadable_file", message))
        if errors:
            raise Problem("validation", errors=errors)

    async def store_together(
        self,
        tasks: Sequence[NewTask],
        request: SubmissionRequest,
        before: Callable[[HotConnection], Awaitable[None]] | None = None,
        after: Callable[[HotConnection], Awaitable[None]] | None = None,
    ) -> datetime:
        """Store tasks, the request's idempotency key, and what is written before and after them, in one transaction.

        Returns `created_at` of the tasks.

        Raises `KeyTaken` or `UniqueTaken`, and then nothing is stored.
        """
        async with self._pool.connection() as connection, connection.transaction():
            await store_key_of(connection, request, tasks[0].batch_id or tasks[0].id)
            for task in tasks:
                if task.unique_for is not None:
                    await self._claim_uniqueness(connection, task)
            if before is not None:
                await before(connection)
            statement = hot_tasks.SUBMIT_KEYED if any(needs_keyed_form(task) for task in tasks) else hot_tasks.SUBMIT
            row = await (await connection.execute(statement, {"document": submission_document(tasks)})).fetchone()
            assert row is not None
            if after is not None:
                await after(connection)
        return StoredTasks._make(row).created_at

    async def _claim_uniqueness(self, connection: HotConnection, task: NewTask) -> None:
        parameters = {
            "owner_id": task.owner_id,
            "kind": task.kind,
            "params_sha256": task.params_digest or params_sha256(task.params),
            "task_id": task.id,
            "unique_for": task.unique_for,
        }
        if await (await connection.execute(queries.CLAIM_UNIQUENESS, parameters)).fetchone() is None:
            async with connection.cursor(row_factory=class_row(_UniqueRow)) as cursor:
                await cursor.execute(queries.FIND_UNIQUE, parameters)
                row = await cursor.fetchone()
            raise UniqueTaken(row.task_id if row is not None else None)

    async def _answer_unique(self, task_id: UUID | None, parsed: Parsed, request: SubmissionRequest) -> Answer:
        """Return 200 with the live task, and store the request's idempotency key with this answer."""
        row = await self._reader.find(task_id, request.caller) if task_id is not None else None
        if row is None:
            # The task was erased in the meantime, so a new one is stored now.
            return await self.accept(parsed, request)
        if request.idempotency_key is not None:
            stored = StoredAnswer(row.id, 200)
            try:
                await self._keys.store(request.caller.owner_id, request.idempotency_key, request.fingerprint, stored)
            except KeyTaken:
                return await self.replay(request, lambda: self.accept(parsed, request))
        return Answer(200, f"/tasks/{row.id}", task_json(row))

    async def replay_or(self, request: SubmissionRequest, submit: Callable[[], Awaitable[Answer]]) -> Answer:
        """Return the answer of `submit`. If it raises a problem, but the idempotency key was used before, return the earlier one.

        Since the first request, what it refers to may have been deleted.
        """
        try:
            return await submit()
        except Problem as problem:
            return await self._replay_refused(request, problem)

    async def _replay_refused(
        self, request: SubmissionRequest, problem: Problem, answer_stored: AnswerStored | None = None
    ) -> Answer:
        """Return the answer that was stored with the request's idempotency key. Raises the problem if there is none."""
        if request.idempotency_key is None:
            raise problem

        async def refuse() -> NoReturn:
            raise problem

        return await self.replay(request, refuse, answer_stored)

    async def replay(
        self,
        request: SubmissionRequest,
        submit_again: Callable[[], Awaitable[Answer]],
        answer_stored: AnswerStored | None = None,
    ) -> Answer:
        """Return the answer that was stored with the request's idempotency key. If the key is free, call `submit_again`.

        `answer_stored` makes the answer; by default, it is that of a task or batch. Raises the problems of
        `IdempotencyKeys.find`.
        """
        assert request.idempotency_key is not None
        stored = await self._keys.find(request.caller.owner_id, request.idempotency_key, request.fingerprint)
        if stored is None:
            return await submit_again()
        answer = await (answer_stored or self._answer_existing)(stored, request.caller)
        answer.replayed = True
        return answer

    async def _answer_existing(self, stored: StoredAnswer, caller: Caller) -> Answer:
        row = await self._reader.find(stored.subject_id, caller)
        if row is not None:
            return Answer(stored.status_code, f"/tasks/{row.id}", task_json(row))
        batch_id = stored.subject_id
        async with (
            self._pool.connection() as connection,
            connection.cursor(row_factory=class_row(_TaskId)) as cursor,
        ):
            await cursor.execute(LIST_BATCH, {"batch_id": batch_id})
            ids = [task.id for task in await cursor.fetchall()]
        if not ids:
            raise Problem("gone", "The task or batch that this request submitted was purged.")
        rows = await self._reader.find_many(ids, caller)
        return Answer(
            stored.status_code, f"/batches/{batch_id}", batch_json(batch_id, [task_json(row) for row in rows])
        )


async def store_key_of(connection: HotConnection, request: SubmissionRequest, subject_id: UUID) -> None:
    """Store the idempotency key of the request, if it has one, in the connection's transaction. Raises `KeyTaken`."""
    if request.idempotency_key is not None:
        stored = StoredAnswer(subject_id, 202)
        await store_key(connection, request.caller.owner_id, request.idempotency_key, request.fingerprint, stored)


def batch_json(batch_id: UUID, bodies: Sequence[bytes]) -> bytes:
    """Return the body of a batch's answer; `bodies` are the representations of its tasks."""
    return orjson.dumps({"batch_id": batch_id, "tasks": [orjson.Fragment(body) for body in bodies]})


def missing_file(pointer: str) -> Problem:
    """Return the problem for an input file that does not exist."""
    return invalid(pointer, "unknown_file", "There is no such file.")
