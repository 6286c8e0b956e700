"""`/files`: upload, read, download, list and delete files."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from http import HTTPStatus
from typing import Annotated, Any, Final, Literal
from uuid import UUID

from fastapi import APIRouter, Query, Request, Response
from pydantic import Field
from sqlalchemy.ext.asyncio import AsyncEngine
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from api.auditing.entries import write_entry
from api.auth.caller import Caller
from api.dependencies import (
    ActorDependency,
    EngineDependency,
    FileDeleterCaller,
    FileReaderCaller,
    IdempotencyKeysDependency,
    QueueBoundsDependency,
    ReadsDependency,
    SettingsDependency,
    StoreDependency,
    SubmissionsDependency,
    UploaderCaller,
)
from api.following.task_models import Sha256, Valid
from api.http.answers import PRIVATE_HEADERS, AnswerModel, Moment, private_answer, private_json
from api.http.byte_ranges import ByteRange, RangeNotSatisfiable, attachment, find_range, http_date, range_applies
from api.http.conditional import matches_etag
from api.http.headers import find_header
from api.http.list_formats import ACCEPT, FORMAT_RESPONSES, Page, answer_list, columns_of
from api.http.problems import Problem
from api.http.query_strings import NoQuery, PageQuery, read_validate_only
from api.http.rate_limits import limited
from api.openapi.operations import (
    ANY_CALLER,
    ANY_SUBMISSION,
    IDEMPOTENCY_KEY,
    VALIDATE_ONLY,
    problem_responses,
    task_response,
)
from api.storage_threads import in_storage_thread, start_in_storage_thread
from api.submitting.idempotency import read_idempotency_key
from api.uploads.upload import Upload
from shared.audit.actions import AuditAction
from shared.audit.entries import Entry
from shared.errors import StorageFull, StorageUnavailable
from shared.permissions import Permission
from shared.queries import files as queries
from shared.queries.tasks import lock_task
from shared.storage.object_store import ObjectReader

router = APIRouter(tags=["files"])

SENT_PIECE_BYTES: Final = 512 << 10
"""How many bytes one call reads in a thread, which bounds the memory of a download."""

_BYTES: Final[dict[str, Any]] = {"schema": {"type": "string", "format": "binary"}}
_CONTENT: Final[dict[str, Any]] = {"application/octet-stream": _BYTES, "*/*": _BYTES}
"""Client generators support the first. The second means that the answer has the type of the file."""

_UPLOAD_SCHEMA: Final[dict[str, Any]] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file"],
                    "additionalProperties": False,
                    "properties": {
                        "task": {
                            "type": "string",
                            "contentMediaType": "application/json",
                            "description": "The task as JSON: `{kind, params, …options}`, with params that have no `file_id`. "
                            "Without it, the kind is `files.inspect`. Send it before the file, so that an invalid task is "
                            "refused before the file is sent.",
                            "examples": ['{"kind": "files.extract_text", "params": {"pages": ["1-3"]}}'],
                        },
                        "keep_for": {
                            "type": "string",
                            "pattern": "^[0-9]{1,9}$",
                            "description": "How many seconds the upload is kept: 7 days by default, at most 365 days. It is "
                            "kept longer while a live task reads it.",
                            "examples": ["86400"],
                        },
                        "file": {
                            "type": "string",
                            "format": "binary",
                            "description": "The file. It must not be empty. With `validate_only` it may be left out.",
                        },
                    },
                }
            }
        },
    },
    "parameters": [VALIDATE_ONLY, IDEMPOTENCY_KEY],
}


@router.post(
    "/files",
    status_code=202,
    summary="Upload a file and submit a task that reads it",
    responses={
        200: {"model": Valid, "description": "The form is valid, and nothing was stored (`validate_only`)."},
        **task_response(202),
        **problem_responses(*ANY_SUBMISSION, "storage-full"),
    },
    openapi_extra=_UPLOAD_SCHEMA,
)
@limited("upload")
async def upload_file(
    request: Request,
    caller: UploaderCaller,
    settings: SettingsDependency,
    submissions: SubmissionsDependency,
    queue_bounds: QueueBoundsDependency,
    keys: IdempotencyKeysDependency,
    store: StoreDependency,
) -> Response:
    """Store a file and a task that reads it, in one transaction. The answer is 202 once both are committed."""
    validate_only = read_validate_only(request.scope["query_string"])
    key = read_idempotency_key(find_header(request, "idempotency-key"))
    upload = Upload(
        request,
        caller,
        submissions=submissions,
        queue_bounds=queue_bounds,
        store=store,
        max_file_bytes=settings.max_upload_bytes,
    )
    try:
        if validate_only:
            await upload.validate()
            return private_json(b'{"valid":true}')
        async with keys.reserve(caller.owner_id, key) as reserved:
            answer = await upload.accept(key, reserved)
    except StorageFull:
        raise Problem("storage-full", headers={"Connection": "close"}) from None
    except StorageUnavailable:
        raise Problem("unavailable", headers={"Connection": "close", "Retry-After": "2"}) from None
    return private_json(answer.body, answer.status, answer.headers())


class File(AnswerModel):
    """A stored file."""

    id: UUID
    name: str
    media_type: Annotated[str, Field(description="The type that was detected from the bytes.")]
    size: Annotated[int, Field(ge=0, description="The size in bytes.")]
    sha256: Sha256
    origin: Annotated[Literal["upload", "task"], Field(description="Whether it was uploaded or made by a task.")]
    task_id: Annotated[UUID | None, Field(description="The task that made the file.")]
    created_at: Moment
    expires_at: Annotated[Moment | None, Field(description="When the file is deleted, unless a live task reads it.")]


class FilePage(AnswerModel):
    """One page of a list of files."""

    items: list[File]
    next_cursor: Annotated[str | None, Field(description="The `cursor` of the next page; null on the last page.")]


@router.get(
    "/files",
    summary="List files, newest first",
    responses={
        200: {"model": FilePage, "description": "A page of files.", "content": FORMAT_RESPONSES},
        **problem_responses(*ANY_CALLER, "not-acceptable"),
    },
    openapi_extra={"parameters": [ACCEPT]},
)
@limited("read")
async def list_files(
    request: Request,
    caller: FileReaderCaller,
    settings: SettingsDependency,
    reads: ReadsDependency,
    query: Annotated[PageQuery, Query()],
) -> Response:
    """Return a page of the files that the caller may see."""

    async def read(before_id: UUID | None, limit: int) -> Page:
        async with reads.connect() as connection:
            statement = queries.list_files(caller.visible_organization_id, before_id, limit + 1)
            rows = (await connection.execute(statement)).all()
        items = [_file(row).model_dump_json().encode() for row in rows[:limit]]
        return Page(items, rows[limit - 1].id if len(rows) > limit else None)

    columns = columns_of(File)
    return await answer_list(request, settings, query, read=read, columns=columns)


@router.get(
    "/files/{file_id}",
    summary="Get the description of a file",
    response_model=File,
    response_description="The file.",
    responses=problem_responses(*ANY_CALLER, "not-found", "gone"),
)
@limited("read")
async def get_file(
    request: Request,
    file_id: UUID,
    caller: FileReaderCaller,
    reads: ReadsDependency,
    query: Annotated[NoQuery, Query()],
) -> Response:
    """Return the name, type, size and digest of a file."""
    return private_answer(_file(await _find(reads, caller, file_id)))


@router.get(
    "/files/{file_id}/content",
    summary="Download a file",
    response_class=Response,
    responses={
        200: {"description": "The whole file, as bytes of its `media_type`.", "content": _CONTENT},
        206: {"description": "The range that `Range` names.", "content": _CONTENT},
        304: {"description": "The file is the one that `If-None-Match` names."},
        **problem_responses(*ANY_CALLER, "not-found", "gone", "range-not-satisfiable"),
    },
)
@limited("read")
async def download_file(
    request: Request,
    file_id: UUID,
    caller: FileReaderCaller,
    actor: ActorDependency,
    engine: EngineDependency,
    reads: ReadsDependency,
    store: StoreDependency,
    query: Annotated[NoQuery, Query()],
) -> Response:
    """Return the bytes of a file, or one range of them."""
    row = await _find(reads, caller, file_id)
    etag, modified = f'"{row.sha256.hex()}"', http_date(row.created_at)
    headers = {
        **PRIVATE_HEADERS,
        "ETag": etag,
        "Last-Modified": modified,
        "Accept-Ranges": "bytes",
        # Browsers must save files of any type and never run them as a part of this site.
        "Content-Disposition": attachment(row.name),
        "Content-Security-Policy": "sandbox; default-src 'none'; frame-ancestors 'none'",
    }
    if (if_none_match := find_header(request, "if-none-match")) is not None and matches_etag(if_none_match, etag):
        return Response(status_code=HTTPStatus.NOT_MODIFIED, headers=headers)
    # Ranges are defined for GET only (RFC 9110, section 14.2). `Frame` passes HEAD on as GET with this mark.
    is_head = request.scope.get("state", {}).get("is_head", False)
    wanted: ByteRange | None = None
    if not is_head and range_applies(find_header(request, "if-range"), etag, modified):
        try:
            wanted = find_range(find_header(request, "range"), row.size)
        except RangeNotSatisfiable:
            raise Problem("range-not-satisfiable", headers={"Content-Range": f"bytes */{row.size}"}) from None
    headers["Content-Type"] = row.media_type
    if wanted is None:
        wanted = ByteRange(0, row.size)
        status = HTTPStatus.OK
    else:
        headers["Content-Range"] = wanted.content_range(row.size)
        status = HTTPStatus.PARTIAL_CONTENT
    headers["Content-Length"] = str(wanted.length)
    if is_head:
        return Response(status_code=status, headers=headers)
    if row.owner_id != caller.owner_id:
        async with engine.begin() as connection:
            await write_entry(connection, Entry(actor, AuditAction.FILE_DOWNLOADED, file_id, row.organization_id))
    reader = await in_storage_thread(store.open_reader, row.storage_key, wanted.start, wanted.length)
    return _ContentResponse(reader, status, headers)


class _ContentResponse(StreamingResponse):
    """Streams an open object, and closes it when the response ends, also by an error."""

    def __init__(self, reader: ObjectReader, status: int, headers: Mapping[str, str]) -> None:
        self._reader = reader
        # A read that outlives its cancelled request must end before its file is closed.
        self._lock = threading.Lock()
        super().__init__(self._read_pieces(), status, headers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            start_in_storage_thread(self._close)

    async def _read_pieces(self) -> AsyncIterator[bytes]:
        while piece := await in_storage_thread(self._read):
            yield piece

    def _read(self) -> bytes:
        with self._lock:
            return self._reader.read(SENT_PIECE_BYTES)

    def _close(self) -> None:
        with self._lock:
            self._reader.close()


@router.delete(
    "/files/{file_id}",
    status_code=204,
    summary="Delete a file",
    response_description="The file is deleted.",
    responses=problem_responses(*ANY_CALLER, "not-found", "gone", "file-in-use"),
)
@limited("submit")
async def delete_file(
    request: Request,
    file_id: UUID,
    caller: FileDeleterCaller,
    actor: ActorDependency,
    reads: ReadsDependency,
    engine: EngineDependency,
    store: StoreDependency,
    query: Annotated[NoQuery, Query()],
) -> Response:
    """Delete a file now, unless a task that is not done reads it."""
    found = await _find(reads, caller, file_id)
    caller.require_for(Permission.FILES_DELETE, found.organization_id)
    async with engine.begin() as connection:
        if found.task_id is not None:
            # Deleting a task locks it before its files. The same order here avoids a deadlock.
            await connection.execute(lock_task(found.task_id))
        row = (await connection.execute(queries.lock_file(file_id))).one_or_none()
        if row is None:
            raise Problem("gone")
        if await connection.scalar(queries.is_read_by_live_task(file_id)):
            raise Problem("file-in-use")
        await connection.execute(queries.delete_files([file_id]))
        if row.task_id is not None:
            await connection.execute(queries.record_deleted_artifact(row.task_id, row.name))
        if row.owner_id != caller.owner_id:
            await write_entry(connection, Entry(actor, AuditAction.FILE_DELETED, file_id, row.organization_id))
    # The row is deleted. An object that cannot be deleted now is an orphan, which is deleted later.
    with suppress(StorageUnavailable):
        await in_storage_thread(store.delete, [row.storage_key])
    return Response(status_code=204, headers=dict(PRIVATE_HEADERS))


async def _find(reads: AsyncEngine, caller: Caller, file_id: UUID) -> Any:
    async with reads.connect() as connection:
        row = (await connection.execute(queries.find_file(file_id, caller.visible_organization_id))).one_or_none()
    if row is None:
        raise await _gone_or_missing(reads, caller, file_id)
    return row


async def _gone_or_missing(reads: AsyncEngine, caller: Caller, file_id: UUID) -> Problem:
    async with reads.connect() as connection:
        was_there = await connection.scalar(queries.find_tombstone(file_id, caller.visible_organization_id))
    return Problem("gone" if was_there else "not-found")


def _file(row: Any) -> File:
    return File(
        id=row.id,
        name=row.name,
        media_type=row.media_type,
        size=row.size,
        sha256=row.sha256.hex(),
        origin=row.origin,
        task_id=row.task_id,
        created_at=row.created_at,
        expires_at=row.expires_at,
    )
