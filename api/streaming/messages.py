"""The messages of streams, in the form of server-sent events and in that of WebSockets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Final, NamedTuple

import orjson

from api.http.answers import timestamp
from shared.tasks.states import DONE_VALUES

MessageId = int | str
"""The sequence number of an event within its task; or, in a stream of several tasks, an opaque text."""


class Message(NamedTuple):
    """One message of a stream. `id` is where a new connection resumes."""

    id: MessageId
    event: str
    """`status`, `progress` or `log`; `counts` for a batch; `position` for a message that has an id only."""
    data: bytes
    """A JSON object."""

    def as_server_sent_event(self) -> bytes:
        """Return the message as a server-sent event (HTML Living Standard, section 9.2).

        A position is an event without data, which a browser does not dispatch, but whose id it keeps.
        """
        if self.event == POSITION:
            return f"id: {self.id}\n\n".encode()
        return b"id: %b\nevent: %b\ndata: %b\n\n" % (str(self.id).encode(), self.event.encode(), self.data)

    def as_json(self, more: Mapping[str, str] | None = None) -> str:
        """Return the message as the JSON text of a WebSocket message, with more fields if any are given."""
        document = {**(more or {}), "id": self.id, "event": self.event, "data": orjson.Fragment(self.data)}
        return orjson.dumps(document).decode()


POSITION: Final = "position"
_SHOWN_TO_VIEWERS: Final = frozenset(
    {"at", "task_id", "seq", "kind", "status", "attempt", "retried", "cancel_requested", "percent"}
)
"""The fields of an event that say nothing about the content of its task."""


def hide_content(messages: Sequence[Message]) -> list[Message]:
    """Return the messages of a task's events as a viewer may see them: no lines of the log, and no text of the handler."""
    return [
        message._replace(data=_pick_shown(message.data))
        for message in messages
        if message.event in {"status", "progress"}
    ]


def _pick_shown(data: bytes) -> bytes:
    content = orjson.loads(data)
    return orjson.dumps({name: value for name, value in content.items() if name in _SHOWN_TO_VIEWERS})


def position(at: MessageId) -> Message:
    """Return a message that has an id only, so that a client without new events resumes at the right place."""
    return Message(at, POSITION, b"{}")


def event_data(at: datetime, data: str, **more: object) -> bytes:
    """Return the data of an event as it is shown; `data` is what is stored, a JSON object.

    Only operators and admins may see which worker runs a task. They see it in the task, and nobody sees it here.
    """
    shown = {"at": timestamp(at), **more, **orjson.loads(data)}
    shown.pop("worker", None)
    return orjson.dumps(shown)


def is_end(event_type: str, data: str) -> bool:
    """Return whether an event ended its task. A later retry may add events."""
    return event_type == "status" and orjson.loads(data)["status"] in DONE_VALUES
