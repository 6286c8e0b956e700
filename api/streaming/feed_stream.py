"""The stream of many tasks of one caller: the events that pass its filter, from now on or from where an earlier stream was cut.

The id of a message is a signed cursor. It names the step of the feed in which the event is, and the place of the event in it;
the id of a position is a snapshot.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple
from uuid import UUID

import orjson

from api.auth.caller import Caller
from api.following.task_filters import require_visible_conditions
from api.http.problems import invalid
from api.http.signed_values import read_signed, sign
from api.streaming.event_feed import EventFeed, FeedEvent, Follower, Place, Step
from api.streaming.messages import Message, event_data, hide_content, position
from api.streaming.streams import Stream
from shared.permissions import Permission
from shared.settings import Settings
from shared.tasks.filters import TaskFilter

_PURPOSE: Final = "feed"
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_TAG_BYTES: Final = 8
_EQUAL: Final = ("kind", "queue", "batch_id", "workflow_id", "parent_id", "schedule_id", "rerun_of", "error_type")
"""The conditions of a filter that an event meets by having the same value."""


class Cursor(NamedTuple):
    """Where a stream resumes: after a snapshot, or after a place in the step from `since` to `until`."""

    since: str
    until: str | None = None
    after: Place | None = None

    def write(self, settings: Settings) -> str:
        """Return the cursor as the id of a message."""
        if self.until is None or self.after is None:
            content: list[object] = [self.since]
        else:
            microseconds = (self.after.at - _EPOCH) // timedelta(microseconds=1)
            content = [self.since, self.until, microseconds, self.after.task_id.hex, self.after.seq]
        return sign(settings, _PURPOSE, orjson.dumps(content), _TAG_BYTES)

    @classmethod
    def read(cls, settings: Settings, text: str) -> Cursor | None:
        """Return the cursor that an id contains, or None if no stream sent this id."""
        content = read_signed(settings, _PURPOSE, text, _TAG_BYTES)
        if content is None:
            return None
        since, *rest = orjson.loads(content)
        if not rest:
            return cls(since)
        until, microseconds, task_id, seq = rest
        return cls(since, until, Place(_EPOCH + timedelta(microseconds=microseconds), UUID(hex=task_id), seq))


class EventFilter:
    """Which events a stream contains: those of the tasks that a list with the same filter contains."""

    def __init__(self, caller: Caller, tasks: TaskFilter) -> None:
        """Create a filter of the tasks that a caller may see: those of the owner that `tasks` names, or the caller's own.

        `tasks.status` is the status that a task has with the event; with progress and log lines, it is `running`. Raises the
        problem `forbidden` for a condition on what the caller may not see.
        """
        require_visible_conditions(tasks, caller)
        self.owner_id = tasks.owner or caller.owner_id
        self.shows_content = caller.has(Permission.TASKS_READ_CONTENT)
        self._organization_id = caller.visible_organization_id
        self._tasks = tasks
        conditions = tasks.conditions()
        self._equal = [(name, conditions[name]) for name in _EQUAL if name in conditions]

    def matches(self, event: FeedEvent) -> bool:
        """Return whether the stream contains an event."""
        which = self._tasks
        shown_at = event.created_at.replace(microsecond=event.created_at.microsecond // 1000 * 1000)
        return (
            event.owner_id == self.owner_id
            and (self._organization_id is None or event.organization_id == self._organization_id)
            and all(getattr(event, name) == value for name, value in self._equal)
            and (which.ids is None or event.place.task_id in which.ids)
            and (which.status is None or _status_with(event) in which.status)
            and (which.tag is None or which.tag in event.tags)
            and (which.metadata is None or which.metadata.items() <= orjson.loads(event.metadata).items())
            and (which.created_after is None or shown_at >= which.created_after)
            and (which.created_before is None or shown_at < which.created_before)
        )


def _status_with(event: FeedEvent) -> str:
    return str(orjson.loads(event.data)["status"]) if event.type == "status" else "running"


class FeedStream(Stream):
    """The events of a caller's tasks. It ends when the server stops."""

    def __init__(
        self, settings: Settings, feed: EventFeed, event_filter: EventFilter, cursor: Cursor | None, pointer: str
    ) -> None:
        self._settings = settings
        self._feed = feed
        self._filter = event_filter
        self._cursor = cursor
        self._pointer = pointer
        self._following = ExitStack()
        self._follower: Follower | None = None
        self._is_joined = False
        self._shows_position = True
        self._first_step: Step | None = None

    async def start(self) -> None:
        """Join the feed. Raises the problem `validation` for a cursor of another database."""
        follower = self._follower = self._following.enter_context(self._feed.follow(owner_id=self._filter.owner_id))
        async with asyncio.timeout(self._settings.database_timeout_seconds):
            await self._wait_until_joined(follower)
        if self._cursor is None:
            self._cursor = Cursor(follower.joined_at or "")
            self._is_joined = True
            return
        self._first_step = await self._read(follower)
        if not self._first_step.is_past:
            raise invalid(self._pointer, "invalid_cursor", "The id is not of this database: begin without one")

    async def next(self, seconds: float) -> Sequence[Message] | None:
        """Return the next events that pass the filter. The id of the last message of a step is where the step ends."""
        assert self._cursor is not None and self._follower is not None
        if self._shows_position:
            self._shows_position = False
            return [position(self._cursor.write(self._settings))]
        deadline = time.monotonic() + seconds
        while not self._feed.stopping:
            step = await self._next_step(self._follower, deadline)
            if step is None:
                break
            messages = self._messages_of(step, self._cursor.after)
            self._cursor = Cursor(step.until)
            if messages:
                return messages
        if self._feed.stopping:
            return None
        return [position(self._cursor.write(self._settings))]

    def close(self) -> None:
        """Leave the feed."""
        self._following.close()

    async def _next_step(self, follower: Follower, deadline: float) -> Step | None:
        """Return the next step, or None if the time is over or the server stops."""
        assert self._cursor is not None
        while not self._feed.stopping:
            if follower.joined_at is None:
                # The stream was too slow for the feed.
                self._is_joined = False
                self._feed.rejoin(follower)
                await self._wait_until_joined(follower)
                continue
            if self._first_step is not None:
                step, self._first_step = self._first_step, None
                return step
            if not self._is_joined:
                if self._cursor != Cursor(follower.joined_at):
                    return await self._read(follower)
                self._is_joined = True
            if follower.pending:
                return follower.pending.pop(0)
            if self._feed.position is not None and follower.joined_at is not None:
                # Everything up to here was sent, or does not concern this stream.
                self._cursor = Cursor(self._feed.position)
            follower.has_changed.clear()
            try:
                async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
                    await follower.has_changed.wait()
            except TimeoutError:
                return None
        return None

    async def _read(self, follower: Follower) -> Step:
        """Return the step in which the cursor is, or the next one towards the snapshot at which the follower joined."""
        assert self._cursor is not None and follower.joined_at is not None
        until = self._cursor.until
        return await self._feed.read(
            self._cursor.since, until or follower.joined_at, self._filter.owner_id, is_whole_step=until is not None
        )

    async def _wait_until_joined(self, follower: Follower) -> None:
        while follower.joined_at is None and not self._feed.stopping:
            follower.has_changed.clear()
            await follower.has_changed.wait()

    def _messages_of(self, step: Step, after: Place | None) -> list[Message]:
        messages = [
            self._message_of(step, event)
            for event in step.events
            if (after is None or event.place > after) and self._filter.matches(event)
        ]
        return messages if self._filter.shows_content else hide_content(messages)

    def _message_of(self, step: Step, event: FeedEvent) -> Message:
        message = step.messages.get(event.place)
        if message is None:
            _, task_id, seq = event.place
            data = event_data(event.at, event.data, task_id=task_id, seq=seq, kind=event.kind)
            message_id = Cursor(step.since, step.until, event.place).write(self._settings)
            message = step.messages[event.place] = Message(message_id, event.type, data)
        return message
