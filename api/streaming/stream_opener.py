"""Opens the streams that a caller asks for, once it is known that the caller may read them."""

from __future__ import annotations

from typing import Final
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncEngine

from api.auth.caller import Caller
from api.following.task_reader import TaskReader
from api.following.waiters import Waiters
from api.http.problems import Problem, invalid
from api.http.query_strings import MAX_NUMBER_DIGITS
from api.streaming.batch_stream import BatchReader, BatchStream
from api.streaming.event_feed import EventFeed
from api.streaming.feed_stream import Cursor, EventFilter, FeedStream
from api.streaming.streams import LastEventId
from api.streaming.task_stream import EventReader, TaskStream
from shared.queries.batches import count_batch
from shared.settings import Settings

MAX_VERSION_DIGITS: Final = 18


class StreamOpener:
    """Makes the streams of one process."""

    def __init__(
        self, settings: Settings, reads: AsyncEngine, tasks: TaskReader, waiters: Waiters, feed: EventFeed
    ) -> None:
        self._settings = settings
        self._reads = reads
        self._tasks = tasks
        self._waiters = waiters
        self._feed = feed
        self._events = EventReader(settings)
        self._batches = BatchReader(settings)

    async def close(self) -> None:
        """Close the connections to the database."""
        await self._events.close()
        await self._batches.close()

    async def open_task(self, task_id: UUID, caller: Caller, last_id: LastEventId) -> TaskStream | None:
        """Return the stream of a task, or None if it is done and no event follows `last_id`.

        Raises `not-found` or `gone` unless the caller may see the task, and `validation` for an id that no event has.
        """
        after_seq = _read_number(last_id, MAX_NUMBER_DIGITS)
        task = await self._tasks.find_version(task_id, caller)
        if task is None:
            raise await self._tasks.gone_or_missing(task_id, caller)
        if after_seq and task.done and task.version <= after_seq:
            return None
        return TaskStream(task_id, caller, after_seq, reader=self._events, tasks=self._tasks, waiters=self._waiters)

    async def open_batch(self, batch_id: UUID, caller: Caller, last_id: LastEventId) -> BatchStream | None:
        """Return the stream of a batch, or None if all its tasks are done and the client has the counts.

        Raises `not-found` unless the caller may see the batch, and `validation` for an id that no message has.
        """
        after = _read_number(last_id, MAX_VERSION_DIGITS)
        # A foreign batch takes as long as one that does not exist: its tasks are not counted.
        async with self._reads.connect() as connection:
            is_visible = (await connection.execute(count_batch(batch_id, caller.visible_organization_id))).first()
        batch = await self._batches.find(batch_id, caller) if is_visible else None
        if batch is None:
            raise Problem("not-found")
        if after == batch.version and batch.state.finished_at is not None:
            return None
        return BatchStream(batch_id, caller, after, reader=self._batches, feed=self._feed)

    def open_feed(self, event_filter: EventFilter, last_id: LastEventId) -> FeedStream:
        """Return the stream of many tasks. Raises `validation` for an id that no message has."""
        cursor = None
        if last_id.value:
            cursor = Cursor.read(self._settings, last_id.value)
            if cursor is None:
                message = "Must be the id of a message of this stream, unchanged"
                raise invalid(last_id.pointer, "invalid_cursor", message)
        return FeedStream(self._settings, self._feed, event_filter, cursor, last_id.pointer)


def _read_number(last_id: LastEventId, max_digits: int) -> int:
    """Return the number of the last message that a client has, or 0 if it has none."""
    value = last_id.value
    if not value:
        return 0
    if not value.isascii() or not value.isdigit() or len(value) > max_digits:
        raise invalid(last_id.pointer, "int_parsing", "Must be the id of an event: a whole number")
    return int(value)
