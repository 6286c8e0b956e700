"""`/events`: the events of all of a caller's tasks, and a WebSocket for several streams."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Final
from uuid import UUID

from fastapi import APIRouter, Query, Request, Response, WebSocket
from pydantic import Field

from api.dependencies import (
    LimitsDependency,
    OpenStreamsDependency,
    StreamsDependency,
    TaskReaderCaller,
    is_allowed,
)
from api.following.task_filters import METADATA_PARAMETER, FilterQuery
from api.http.query_strings import NoQuery
from api.http.rate_limits import limited
from api.openapi.operations import ANY_CALLER, LAST_EVENT_ID, LAST_EVENT_ID_HEADER, problem_responses, stream_response
from api.streaming.feed_stream import EventFilter
from api.streaming.streams import EventStreamResponse, LastEventId
from api.streaming.web_sockets import SubscriptionSocket
from shared.permissions import Permission

router = APIRouter(tags=["events"])

STREAMED_EVENT: Final = {
    "type": "object",
    "description": "One server-sent event.",
    "properties": {
        "id": {"type": "string", "description": "An opaque text, with which a stream resumes after this event."},
        "event": {"enum": ["status", "progress", "log"]},
        "data": {
            "type": "string",
            "contentMediaType": "application/json",
            "description": "An object with `task_id`, `seq` (the number of the event within its task), `kind`, `at`, and "
            "what the stream of the task has.",
        },
    },
    "required": ["id", "event", "data"],
}


class EventsQuery(FilterQuery):
    """The filters of a stream, and where it begins."""

    status: Annotated[
        str | None,
        Field(
            description="One or more statuses, separated by commas: events after which the task has one of them. With "
            "progress and log lines, a task is `running`."
        ),
    ] = None
    owner: Annotated[
        UUID | None, Field(description="The id of the caller who submitted the tasks. By default it is you.")
    ] = None
    error_type: Annotated[
        str | None,
        Field(
            max_length=200,
            description="The `type` of an error that the task shows: events that ended an attempt with it.",
        ),
    ] = None
    last_event_id: LAST_EVENT_ID = None


@router.get(
    "/events",
    summary="Stream the events of all of your tasks",
    response_class=Response,
    responses={
        **stream_response(
            STREAMED_EVENT,
            "Server-sent events, of the tasks that you submitted and that pass the filters, from now on. The events of one "
            "task come in their order. To continue after a lost connection without losing an event, send the last `id` in "
            "`Last-Event-ID`, with the same filters. The first message, and one every 15 seconds without events, has an `id` "
            "only.\n\n"
            "A WebSocket to `/events/ws` carries several streams. Send JSON messages: "
            '`{"type": "subscribe", "subscription": NAME, …}` with one of `task_id`, `batch_id` and `filter` (an object with '
            "the filters of this route), and `last_event_id` to resume; "
            '`{"type": "unsubscribe", "subscription": NAME}` ends one. You get `subscribed`, `unsubscribed`, `event` (with '
            "`subscription`, `id`, `event` and `data`), `end` when a stream is over, and `error` with a `problem` and, if "
            "it is known, the `subscription`. A message with an `id` only is an `event` named `position` there. A socket "
            "may have 100 subscriptions, and a message 16 KiB.",
        ),
        **problem_responses(*ANY_CALLER),
    },
    openapi_extra={"parameters": [*LAST_EVENT_ID_HEADER["parameters"], METADATA_PARAMETER]},
)
@limited("read")
async def follow_events(
    request: Request,
    caller: TaskReaderCaller,
    streams: StreamsDependency,
    open_streams: OpenStreamsDependency,
    query: Annotated[EventsQuery, Query()],
) -> Response:
    """Return the events of the caller's tasks as they happen, as server-sent events."""
    which = query.require_known_names().read_filter()
    event_filter = EventFilter(caller, which)
    stream = streams.open_feed(event_filter, LastEventId.find(request, query.last_event_id))
    return EventStreamResponse(stream, caller, open_streams, partial(is_allowed, request, Permission.TASKS_READ))


@router.websocket("/events/ws")
async def subscribe(
    websocket: WebSocket,
    caller: TaskReaderCaller,
    limits: LimitsDependency,
    streams: StreamsDependency,
    open_streams: OpenStreamsDependency,
    query: Annotated[NoQuery, Query()],
) -> None:
    """Send the events of the tasks, batches and filters that the client subscribes to."""
    limits.count("read", caller.rate_key)
    count_request = partial(limits.count, "read", caller.rate_key)
    is_still_allowed = partial(is_allowed, websocket, Permission.TASKS_READ)
    await SubscriptionSocket(websocket, caller, streams, count_request, is_still_allowed).run(open_streams)
