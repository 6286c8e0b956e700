"""`/tasks/<id>/events`, `/tasks/<id>/ws` and the tokens with which a browser opens them; `/tasks/<id>/log`."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Final
from uuid import UUID

from fastapi import APIRouter, Query, Request, Response, WebSocket
from pydantic import BeforeValidator, Field

from api.dependencies import (
    LimitsDependency,
    NoBody,
    OpenStreamsDependency,
    ReadsDependency,
    SettingsDependency,
    StreamsDependency,
    TaskContentCaller,
    TaskReaderCaller,
    TasksDependency,
    TaskStreamCaller,
    is_allowed,
)
from api.following.task_models import TaskLogLine, TaskLogPage
from api.http.answers import PRIVATE_HEADERS, private_answer
from api.http.query_strings import NoQuery, PageLimit, StrictQuery, require_digits
from api.http.rate_limits import limited
from api.openapi.operations import ANY_CALLER, LAST_EVENT_ID, LAST_EVENT_ID_HEADER, problem_responses, stream_response
from api.streaming.stream_tokens import StreamToken, make_token
from api.streaming.streams import EventStreamResponse, LastEventId
from api.streaming.web_sockets import send_stream
from shared.permissions import Permission
from shared.queries.events import LIST_LOG

router = APIRouter(tags=["tasks"])

STREAMED_EVENT: Final = {
    "type": "object",
    "description": "One server-sent event.",
    "properties": {
        "id": {"type": "string", "description": "The event's sequence number within its task."},
        "event": {"enum": ["status", "progress", "log"]},
        "data": {"type": "string", "contentMediaType": "application/json"},
    },
    "required": ["id", "event", "data"],
}


class TaskStreamQuery(StrictQuery):
    """The event after which a stream begins, and the credentials of a browser."""

    last_event_id: LAST_EVENT_ID = None
    token: Annotated[
        str | None,
        Field(
            max_length=1024,
            description="A stream token, in the place of the header `Authorization`, which a browser cannot send.",
        ),
    ] = None


@router.get(
    "/tasks/{task_id}/events",
    summary="Stream the events of a task",
    response_class=Response,
    responses={
        **stream_response(
            STREAMED_EVENT,
            "Server-sent events. The past events come first, and the stream ends with the event that ends the task. `id` is "
            "the sequence number, `event` is `status`, `progress` or `log`, and `data` is a JSON object. To continue after a "
            "lost connection, send the last `id` in `Last-Event-ID`.\n\n"
            "A WebSocket to `/tasks/{task_id}/ws` carries the same messages, each as a JSON object with `id`, `event` and "
            "`data`, and is closed when the stream ends. It takes the query parameters `last_event_id` and `token` too.",
        ),
        204: {
            "description": "The task is done, and nothing has happened since the `Last-Event-ID`. A browser stops connecting."
        },
        **problem_responses(*ANY_CALLER, "not-found", "gone"),
    },
    openapi_extra=LAST_EVENT_ID_HEADER,
)
@limited("read")
async def stream_events(
    request: Request,
    task_id: UUID,
    caller: TaskStreamCaller,
    streams: StreamsDependency,
    open_streams: OpenStreamsDependency,
    query: Annotated[TaskStreamQuery, Query()],
) -> Response:
    """Return the past events of the task, and then its new events as they happen, as server-sent events."""
    last_id = LastEventId.find(request, query.last_event_id)
    stream = await streams.open_task(task_id, caller, last_id)
    if stream is None:
        # A browser's EventSource connects again after every end of a stream, until it is answered 204 (HTML Living
        # Standard, section 9.2.3).
        return Response(status_code=204, headers=dict(PRIVATE_HEADERS))
    is_still_allowed = partial(is_allowed, request, Permission.TASKS_READ, task_id=task_id)
    return EventStreamResponse(stream, caller, open_streams, is_still_allowed)


@router.websocket("/tasks/{task_id}/ws")
async def send_events(
    websocket: WebSocket,
    task_id: UUID,
    caller: TaskStreamCaller,
    limits: LimitsDependency,
    streams: StreamsDependency,
    open_streams: OpenStreamsDependency,
    query: Annotated[TaskStreamQuery, Query()],
) -> None:
    """Send the messages of `GET /tasks/<id>/events` over a WebSocket."""
    limits.count("read", caller.rate_key)
    stream = await streams.open_task(task_id, caller, LastEventId(query.last_event_id, "query:last_event_id"))
    if stream is None:
        await websocket.accept()
        await websocket.close()
        return
    is_still_allowed = partial(is_allowed, websocket, Permission.TASKS_READ, task_id=task_id)
    await send_stream(websocket, stream, caller, open_streams, is_still_allowed)


@router.post(
    "/tasks/{task_id}/stream-token",
    summary="Get a token with which a browser opens the stream of a task",
    response_model=StreamToken,
    response_description="The token.",
    responses=problem_responses(*ANY_CALLER, "not-found", "gone", "unsupported-media-type"),
)
@limited("submit")
async def create_token(
    request: Request,
    task_id: UUID,
    caller: TaskReaderCaller,
    settings: SettingsDependency,
    tasks: TasksDependency,
    query: Annotated[NoQuery, Query()],
    body: NoBody,
) -> Response:
    """Return a token for the streams of this task alone: `/tasks/<id>/events?token=…` and `/tasks/<id>/ws?token=…`.

    A stream can be opened with it for five minutes, and then lasts as long as any other. Revoking the key that asked for the
    token ends its streams.
    """
    await tasks.require(task_id, caller)
    return private_answer(make_token(settings, task_id, caller.key_prefix), headers={"Cache-Control": "no-store"})


class LogQuery(StrictQuery):
    """Which lines of a log are returned."""

    after: Annotated[
        int, BeforeValidator(require_digits), Field(ge=0, description="The `seq` of the last line that you have.")
    ] = 0
    limit: PageLimit = 200


@router.get(
    "/tasks/{task_id}/log",
    summary="Read the log of a task",
    response_model=TaskLogPage,
    response_description="The lines, oldest first.",
    responses=problem_responses(*ANY_CALLER, "not-found", "gone"),
)
@limited("read")
async def read_log(
    request: Request,
    task_id: UUID,
    caller: TaskContentCaller,
    tasks: TasksDependency,
    reads: ReadsDependency,
    query: Annotated[LogQuery, Query()],
) -> Response:
    """Return the lines that the handler wrote for the owner of the task. The stream of the task has them as `log` events.

    A task keeps 1,000 lines and 256 KiB, and then one line that says so.
    """
    await tasks.require(task_id, caller)
    parameters = {"id": task_id, "after": query.after, "limit": query.limit + 1}
    async with reads.connect() as connection:
        rows = (await connection.exec_driver_sql(LIST_LOG, parameters)).all()
    lines = [
        TaskLogLine(seq=row.seq, at=row.at, level=row.level, text=row.text, fields=row.fields)
        for row in rows[: query.limit]
    ]
    next_after = lines[-1].seq if len(rows) > query.limit else None
    return private_answer(TaskLogPage(items=lines, next_after=next_after))
