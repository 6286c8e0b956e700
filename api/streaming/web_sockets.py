"""Sends streams over WebSockets: one stream on a socket, or several that the client subscribes to."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Annotated, Any, Final, Literal
from uuid import UUID

import orjson
import structlog
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator
from pydantic_core import PydanticCustomError
from starlette.requests import ClientDisconnect
from starlette.websockets import WebSocket, WebSocketDisconnect

from api.auth.caller import Caller
from api.http.error_responses import from_exception
from api.http.problems import Problem, invalid, invalid_body
from api.streaming.feed_stream import EventFilter
from api.streaming.messages import Message
from api.streaming.stream_opener import StreamOpener
from api.streaming.streams import (
    CHECK_KEY_SECONDS,
    IsAllowed,
    KeyCheck,
    LastEventId,
    OpenStreams,
    Stream,
    run_until_disconnected,
    send_soon,
)
from shared.tasks.filters import TaskFilter

MAX_SUBSCRIPTIONS: Final = 100
"""How many subscriptions one socket may have at a time."""
MAX_MESSAGE_BYTES: Final = 16 << 10
"""How large a message of a client may be. Four times as much closes the socket (`api/serve.py`)."""
MAX_NAME_CHARACTERS: Final = 64
"""How long the name of a subscription may be."""
NORMAL_CLOSURE: Final = 1000
POLICY_VIOLATION: Final = 1008
INTERNAL_ERROR: Final = 1011
log = structlog.get_logger()
KEY_REVOKED: Final = "The key of this stream was revoked or has expired, or its rights have changed."


async def send_stream(
    websocket: WebSocket, stream: Stream, caller: Caller, open_streams: OpenStreams, is_still_allowed: IsAllowed
) -> None:
    """Send one stream as WebSocket messages, and close the socket when it is over. What the client sends is ignored."""

    async def send_messages() -> None:
        key_check = KeyCheck(is_still_allowed)
        while await key_check.passes():
            messages = await stream.next(CHECK_KEY_SECONDS)
            if messages is None:
                await websocket.close(NORMAL_CLOSURE)
                return
            for message in messages:
                await _send(websocket, message.as_json())
        await websocket.close(POLICY_VIOLATION, KEY_REVOKED)

    with open_streams.count(caller):
        try:
            await stream.start()
            await _run(websocket, send_messages())
        finally:
            stream.close()


async def _run(websocket: WebSocket, work: Coroutine[None, None, None]) -> None:
    await websocket.accept()
    try:
        await run_until_disconnected(websocket.receive, "websocket.disconnect", work)
    except WebSocketDisconnect:
        raise ClientDisconnect from None


async def _send(websocket: WebSocket, text: str) -> None:
    await send_soon(websocket.send_text(text), websocket.scope)


SubscriptionName = Annotated[str, Field(min_length=1, max_length=MAX_NAME_CHARACTERS)]


class _ClientMessage(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Subscribe(_ClientMessage):
    """Begin a subscription: to one task, to one batch, or to the events that pass a filter."""

    type: Literal["subscribe"]
    subscription: SubscriptionName
    task_id: UUID | None = None
    batch_id: UUID | None = None
    filter: TaskFilter | None = None
    last_event_id: int | Annotated[str, Field(max_length=4096)] | None = None

    @model_validator(mode="after")
    def _require_one_subject(self) -> Subscribe:
        if sum(subject is not None for subject in (self.task_id, self.batch_id, self.filter)) != 1:
            raise PydanticCustomError("one_subject", "Must have exactly one of task_id, batch_id and filter")
        return self


class Unsubscribe(_ClientMessage):
    """End a subscription."""

    type: Literal["unsubscribe"]
    subscription: SubscriptionName


_CLIENT_MESSAGE: Final[TypeAdapter[Subscribe | Unsubscribe]] = TypeAdapter(
    Annotated[Subscribe | Unsubscribe, Field(discriminator="type")]
)


class SubscriptionSocket:
    """One socket with the subscriptions of its client.

    Every message is a JSON object with a `type`. The client sends `subscribe` and `unsubscribe`; the server answers with
    `subscribed`, `unsubscribed` or `error`, and sends `event` for each message of a subscription, and `end` when it is over. An
    invalid message is answered with `error`, whose `problem` is the document that an HTTP request would be answered with.
    """

    def __init__(
        self,
        websocket: WebSocket,
        caller: Caller,
        opener: StreamOpener,
        count_request: Callable[[], object],
        is_still_allowed: IsAllowed,
    ) -> None:
        self._websocket = websocket
        self._caller = caller
        self._opener = opener
        self._count_request = count_request
        self._is_still_allowed = is_still_allowed
        self._subscriptions: dict[str, asyncio.Task[None]] = {}

    async def run(self, open_streams: OpenStreams) -> None:
        """Answer messages until either side closes the socket."""
        with open_streams.count(self._caller):
            await self._websocket.accept()
            checking = asyncio.create_task(self._check_key())
            try:
                while (message := await self._websocket.receive())["type"] != "websocket.disconnect":
                    await self._answer(message)
            finally:
                checking.cancel()
                for subscription in list(self._subscriptions.values()):
                    subscription.cancel()

    async def _check_key(self) -> None:
        try:
            while True:
                await asyncio.sleep(CHECK_KEY_SECONDS)
                if not await self._is_still_allowed():
                    break
        except Exception:
            # A socket must not stay open whose key is checked no more.
            log.exception("key_check_failed")
            await self._websocket.close(INTERNAL_ERROR, "The key of this stream could not be checked.")
            return
        await self._websocket.close(POLICY_VIOLATION, KEY_REVOKED)

    async def _answer(self, message: Any) -> None:
        name = _find_subscription_name(message)
        try:
            request = _parse(message)
            name = request.subscription
            if isinstance(request, Unsubscribe):
                self._unsubscribe(name)
                await self._send({"type": "unsubscribed", "subscription": name})
            else:
                self._count_request()
                await self._subscribe(request)
        except Exception as error:
            if isinstance(error, ClientDisconnect | WebSocketDisconnect):
                raise
            await self._send_error(from_exception(error), name)

    async def _subscribe(self, request: Subscribe) -> None:
        name = request.subscription
        if name in self._subscriptions:
            raise invalid("/subscription", "in_use", "There is a subscription of this name: end it first")
        if len(self._subscriptions) >= MAX_SUBSCRIPTIONS:
            raise invalid(
                "", "too_many", f"A socket may have {MAX_SUBSCRIPTIONS} subscriptions at a time: end one first"
            )
        stream = await self._open(request)
        await self._send({"type": "subscribed", "subscription": name})
        self._subscriptions[name] = asyncio.create_task(self._send_messages(name, stream))

    async def _open(self, request: Subscribe) -> Stream | None:
        value = None if request.last_event_id is None else str(request.last_event_id)
        last_id = LastEventId(value, "/last_event_id")
        if request.task_id is not None:
            return await self._opener.open_task(request.task_id, self._caller, last_id)
        if request.batch_id is not None:
            return await self._opener.open_batch(request.batch_id, self._caller, last_id)
        assert request.filter is not None
        return self._opener.open_feed(EventFilter(self._caller, request.filter), last_id)

    def _unsubscribe(self, name: str) -> None:
        subscription = self._subscriptions.pop(name, None)
        if subscription is None:
            raise invalid("/subscription", "unknown", "There is no subscription of this name")
        subscription.cancel()

    async def _send_messages(self, name: str, stream: Stream | None) -> None:
        try:
            try:
                if stream is not None:
                    await stream.start()
                    while (messages := await stream.next(CHECK_KEY_SECONDS)) is not None:
                        for message in messages:
                            await self._send_event(name, message)
            except (ClientDisconnect, WebSocketDisconnect):
                return
            except Exception as error:
                await self._send_error(from_exception(error), name)
            self._subscriptions.pop(name, None)
            await self._send({"type": "end", "subscription": name})
        except (ClientDisconnect, WebSocketDisconnect):
            return
        finally:
            if stream is not None:
                stream.close()

    async def _send_event(self, name: str, message: Message) -> None:
        await _send(self._websocket, message.as_json({"type": "event", "subscription": name}))

    async def _send_error(self, problem: Problem, name: str | None) -> None:
        document = orjson.Fragment(problem.body(self._websocket.state.request_id))
        about = {} if name is None else {"subscription": name}
        await self._send({"type": "error", **about, "problem": document})

    async def _send(self, document: dict[str, object]) -> None:
        await _send(self._websocket, orjson.dumps(document).decode())


def _find_subscription_name(message: Any) -> str | None:
    """Return the `subscription` of a message that may be invalid, so that the client knows which one an error is about."""
    text = message.get("text")
    if text is None or len(text) > MAX_MESSAGE_BYTES:
        return None
    try:
        name = orjson.loads(text)["subscription"]
    except (ValueError, TypeError, KeyError):
        return None
    return name if isinstance(name, str) and 1 <= len(name) <= MAX_NAME_CHARACTERS else None


def _parse(message: Any) -> Subscribe | Unsubscribe:
    """Return a message of a client. Raises the problem `validation`."""
    text = message.get("text")
    if text is None:
        raise invalid("", "text_expected", "Must be a text message, with a JSON object")
    if len(text.encode()) > MAX_MESSAGE_BYTES:
        raise Problem("too-large", f"A message may have {MAX_MESSAGE_BYTES:,} bytes.")
    try:
        return _CLIENT_MESSAGE.validate_json(text)
    except ValidationError as error:
        raise _without_tag(invalid_body(error)) from None


def _without_tag(problem: Problem) -> Problem:
    """Return a problem whose pointers do not begin with the type of the message, which pydantic adds."""
    problem.errors = [
        type(error)(error.pointer.removeprefix("/subscribe").removeprefix("/unsubscribe"), error.code, error.message)
        if error.pointer.startswith(("/subscribe/", "/unsubscribe/")) or error.pointer in {"/subscribe", "/unsubscribe"}
        else error
        for error in problem.errors
    ]
    return problem
