"""Stores an upload: a file and the task that reads it, in one transaction."""

from __future__ import annotations

import asyncio
import dataclasses
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, Final

import orjson
import psycopg
from fastapi import Request

from api.auth.caller import Caller
from api.following.task_representation import TaskOrigin, new_task_json
from api.http.headers import find_header
from api.http.json_text import load_json
from api.http.problems import Problem, invalid
from api.storage_threads import start_in_storage_thread
from api.submitting.idempotency import KeyTaken, ReservedKey, StoredAnswer, fingerprint
from api.submitting.parsing import Parsed, dump_part, parse_submission, read_traceparent, submittable_kind
from api.submitting.queue_bounds import QueueBounds
from api.submitting.quotas import require_retention, shorten_retention
from api.submitting.submissions import Answer, SubmissionRequest, Submissions, missing_file
from api.uploads.multipart import FILE_FIELD, ReceivedFile, ReceivedForm, receive_form
from shared.errors import StorageUnavailable
from shared.identifiers import new_id
from shared.limits import NO_LIMITS
from shared.queries import files as queries
from shared.storage.object_store import ObjectStore
from shared.tasks.options import DEFAULT_KEEP_SECONDS, LONGEST_KEEP_SECONDS
from shared.tasks.submission import NewTask

DEFAULT_TASK: Final = {"kind": "files.inspect"}
TASK_POINTER: Final = "form:task"

_SECONDS: Final = re.compile(r"[0-9]{1,9}")


class Upload:
    """One upload, from receiving the form to returning the answer."""

    def __init__(
        self,
        request: Request,
        caller: Caller,
        *,
        submissions: Submissions,
        queue_bounds: QueueBounds,
        store: ObjectStore,
        max_file_bytes: int,
    ) -> None:
        self._request = request
        self._caller = caller
        self._submissions = submissions
        self._queue_bounds = queue_bounds
        self._store = store
        self._max_file_bytes = max_file_bytes
        self._held = NO_LIMITS
        self._file_id = new_id()

    async def validate(self) -> None:
        """Raise the problem that the upload would cause, as far as it can be found without storing anything."""
        form = await self._receive(keeps_file=False)
        self._find_keep_seconds(form.fields)
        parsed = self._parse(form.fields)
        if form.file is not None:
            _require_readable(parsed, form.file, self._pointer)
        await self._check_other_files(parsed)

    async def accept(self, key: str | None, reserved: ReservedKey | None) -> Answer:
        """Store the file and its task and return the answer, or the earlier answer for the same key.

        If nothing is stored, the object is deleted. `reserved` is None without a key, and if an earlier upload stored the key.
        """
        if key is None or reserved is not None:
            # Otherwise an earlier upload with this key was counted already.
            await self._queue_bounds.admit(self._caller.owner_id, 1)
        form = await self._receive(keeps_file=True)
        if form.file is None:
            raise invalid(f"form:{FILE_FIELD}", "missing", "A file is required")
        storing = _Storing(form.file, self._store)
        try:
            parsed = self._parse(form.fields)
            _require_readable(parsed, form.file, self._pointer)
            await self._check_other_files(parsed)
            request = SubmissionRequest(
                self._caller,
                self._request.state.request_id,
                key,
                _fingerprint(form.fields, form.file) if key is not None else None,
                read_traceparent(find_header(self._request, "traceparent")),
            )
            request = self._submissions.protect(request, [parsed])
            keep_seconds = self._find_keep_seconds(form.fields)

            async def store() -> Answer:
                try:
                    return await self._insert(parsed, request, storing, keep_seconds, reserved)
                except KeyTaken:
                    return await self._submissions.replay(request, store)

            if key is None or reserved is not None:
                return await store()
            return await self._submissions.replay(request, store)
        finally:
            await storing.tidy()

    async def _receive(self, *, keeps_file: bool) -> ReceivedForm:
        self._held = await self._submissions.read_limits(self._caller)
        quota = self._held.least("upload_bytes")
        headers = self._request.headers
        try:
            return await receive_form(
                self._request.stream(),
                content_type=headers.get("content-type"),
                content_length=headers.get("content-length"),
                store=self._store if keeps_file else None,
                max_file_bytes=self._max_file_bytes if quota is None else min(self._max_file_bytes, quota),
                check_fields=self._check_early,
            )
        except Problem as problem:
            if problem.name == "too-large" and quota is not None and quota < self._max_file_bytes:
                detail = f"An upload of yours has at most {quota:,} bytes."
                raise Problem("quota-upload-bytes", detail, headers=problem.headers) from None
            raise

    def _find_keep_seconds(self, fields: Mapping[str, str]) -> int:
        """Return for how many seconds the file is kept. Raises a problem for a time that is invalid or not allowed."""
        keep_seconds = _keep_seconds(fields)
        if "keep_for" not in fields:
            return shorten_retention(self._held, keep_seconds)
        require_retention(self._held, keep_seconds, "form:keep_for")
        return keep_seconds

    def _check_early(self, fields: Mapping[str, str]) -> None:
        """Raise a problem for invalid fields that precede the file."""
        self._find_keep_seconds(fields)
        if "task" in fields:
            self._parse(fields)

    @property
    def _pointer(self) -> str:
        return f"{TASK_POINTER}/params/file_id"

    def _parse(self, fields: Mapping[str, str]) -> Parsed:
        """Validate the task, with its `file_id` filled in."""
        content = _load_task(fields)
        if isinstance(content, dict) and "kind" in content:
            kind = submittable_kind(content["kind"], self._caller, f"{TASK_POINTER}/kind")
            if "file_id" not in kind.params.model_fields:
                message = "This kind has no `file_id`. Upload the file with another kind, then submit this kind with POST /tasks."
                raise invalid(f"{TASK_POINTER}/kind", "takes_no_file", message)
            params = content.get("params", {})
            if isinstance(params, dict):
                if "file_id" in params:
                    raise invalid(self._pointer, "filled_in", "Leave `file_id` out: it is the uploaded file.")
                content = {**content, "params": {**params, "file_id": str(self._file_id)}}
        parsed = parse_submission(dump_part(content, TASK_POINTER), self._caller, TASK_POINTER)
        if parsed.options.unique_for is not None:
            raise invalid(
                f"{TASK_POINTER}/unique_for", "not_with_an_upload", "The option unique_for cannot be used in an upload."
            )
        return parsed

    async def _check_other_files(self, parsed: Parsed) -> None:
        others = [file for file in parsed.files if file.file_id != self._file_id]
        await self._submissions.check_files([dataclasses.replace(parsed, files=others)], self._caller)

    async def _insert(
        self,
        parsed: Parsed,
        request: SubmissionRequest,
        storing: _Storing,
        keep_seconds: int,
        reserved: ReservedKey | None,
    ) -> Answer:
        task = self._submissions.new_task(parsed, request)
        if reserved is not None:
            # This request has reserved the key, so the key is completed below and not inserted.
            request = dataclasses.replace(request, idempotency_key=None)

        async def insert_first(connection: psycopg.AsyncConnection[tuple[Any, ...]]) -> None:
            if reserved is not None:
                await reserved.complete(connection, request.fingerprint or "", StoredAnswer(task.id, 202))
            storing.begin()
            await connection.execute(queries.INSERT_UPLOAD, self._row(task, storing.file, keep_seconds))

        try:
            with storing.watch_transaction():
                created_at = await self._submissions.store_together([task], request, insert_first)
        except psycopg.errors.ForeignKeyViolation:
            others = [file.pointer for file in parsed.files if file.file_id != self._file_id]
            raise missing_file(others[0] if others else self._pointer) from None
        return Answer(202, f"/tasks/{task.id}", new_task_json(task, created_at, TaskOrigin.of_new_task(self._caller)))

    def _row(self, task: NewTask, file: ReceivedFile, keep_seconds: int) -> dict[str, Any]:
        return {
            "id": self._file_id,
            "organization_id": task.organization_id,
            "owner_id": task.owner_id,
            "name": file.name,
            "media_type": file.media_type,
            "size": file.size,
            "sha256": file.sha256,
            "storage_key": file.storage_key,
            "keep_seconds": keep_seconds,
        }


class _Storing:
    """A received file for which a row is about to be inserted."""

    def __init__(self, file: ReceivedFile, store: ObjectStore) -> None:
        self.file = file
        self._store = store
        self._may_have_row = False

    @contextmanager
    def watch_transaction(self) -> Iterator[None]:
        """Surround the transaction that inserts the row, to find out whether it was rolled back for certain."""
        try:
            yield
        except (psycopg.OperationalError, psycopg.InterfaceError):
            # The connection may have been lost during the commit, so it is unknown whether the row was committed.
            raise
        except Exception:
            self._may_have_row = False
            raise

    def begin(self) -> None:
        """Record that the row is inserted next."""
        self._may_have_row = True

    async def tidy(self) -> None:
        """Delete the object if certainly no row refers to it. Otherwise it stays, and is found later if it is an orphan."""
        if self._may_have_row:
            return
        # The thread deletes the object even if the request is cancelled here.
        deleting = start_in_storage_thread(self._store.delete, [self.file.storage_key])
        with suppress(StorageUnavailable):
            await asyncio.shield(asyncio.wrap_future(deleting))


def _load_task(fields: Mapping[str, str]) -> Any:
    """Return the task as decoded JSON. Raises the problems of `load_json` at `form:task`."""
    return load_json(fields["task"].encode(), TASK_POINTER) if "task" in fields else DEFAULT_TASK


def _keep_seconds(fields: Mapping[str, str]) -> int:
    """Return for how many seconds the upload is kept. The task's own `keep_for` is for the task and its artifacts."""
    text = fields.get("keep_for")
    if text is None:
        return DEFAULT_KEEP_SECONDS
    if not _SECONDS.fullmatch(text) or int(text) > LONGEST_KEEP_SECONDS:
        raise invalid(
            "form:keep_for", "out_of_range", f"Must be a whole number of seconds, at most {LONGEST_KEEP_SECONDS}"
        )
    return int(text)


def _fingerprint(fields: Mapping[str, str], file: ReceivedFile) -> str:
    form = {**fields, "task": _load_task(fields), "file": file.sha256.hex()}
    return fingerprint("POST", "/files", orjson.dumps(form))


def _require_readable(parsed: Parsed, file: ReceivedFile, pointer: str) -> None:
    """Raise the problem `unsupported-media-type` unless the kind can read what the bytes are."""
    for referred in parsed.files:
        if referred.pointer == pointer and not referred.reference.can_read(file.media_type):
            accepted = ", ".join(referred.reference.accepts)
            raise Problem(
                "unsupported-media-type", f"{parsed.kind_name} cannot read {file.media_type}: only {accepted}."
            )
