"""The stream of one task: its past events from Postgres, and then its new events as they are stored.

It sends the stored events, waits until the task has changed, and sends those that were stored since. Many streams read from
Postgres in one round trip.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import datetime
from typing import Final, NamedTuple
from uuid import UUID

from api.auth.caller import Caller
from api.batcher import Batcher, HotConnection
from api.following.task_reader import TaskReader
from api.following.waiters import Waiter, Waiters
from api.streaming.messages import Message, event_data, hide_content, is_end
from api.streaming.streams import Stream
from shared.permissions import Permission
from shared.queries.events import LIST_EVENTS_AFTER
from shared.settings import Settings

EVENTS_AT_ONCE: Final = 200
"""How many events of one task are read in one round trip, which bounds the memory of a stream."""


class TaskEvent(NamedTuple):
    """One entry of a task's history."""

    seq: int
    type: str
    at: datetime
    data: str
    """A JSON object."""
    message: Message
    """The event as a message, whose id is its sequence number."""


class _Row(NamedTuple):
    """A row of `LIST_EVENTS_AFTER`. `position` is that of the task among those that were asked for, from 1."""

    position: int
    seq: int
    type: str
    at: datetime
    data: str


class _Wanted(NamedTuple):
    task_id: UUID
    after_seq: int


class EventReader:
    """Reads the history of tasks, for many streams in one round trip."""

    def __init__(self, settings: Settings) -> None:
        self._events: Batcher[_Wanted, list[TaskEvent]] = Batcher(settings, "events", self._read)

    async def list_after(self, task_id: UUID, seq: int) -> list[TaskEvent]:
        """Return the events of a task that follow a sequence number, oldest first: `EVENTS_AT_ONCE` at most."""
        return await self._events.submit(_Wanted(task_id, seq))

    async def close(self) -> None:
        """Finish the submitted reads, then close the connection."""
        await self._events.close()

    async def _read(self, connection: HotConnection, wanted: Sequence[_Wanted]) -> Sequence[list[TaskEvent]]:
        # The listeners of one task usually want the same events.
        distinct = list(dict.fromkeys(wanted))
        parameters = {
            "ids": "{" + ",".join(str(item.task_id) for item in distinct) + "}",
            "after": "{" + ",".join(str(item.after_seq) for item in distinct) + "}",
            "limit": EVENTS_AT_ONCE,
        }
        found: defaultdict[_Wanted, list[TaskEvent]] = defaultdict(list)
        cursor = await connection.execute(LIST_EVENTS_AFTER, parameters)
        for row in map(_Row._make, await cursor.fetchall()):
            message = Message(row.seq, row.type, event_data(row.at, row.data))
            found[distinct[row.position - 1]].append(TaskEvent(row.seq, row.type, row.at, row.data, message))
        return [found[item] for item in wanted]


class TaskStream(Stream):
    """The history of one task, until the task is done."""

    def __init__(
        self,
        task_id: UUID,
        caller: Caller,
        after_seq: int,
        *,
        reader: EventReader,
        tasks: TaskReader,
        waiters: Waiters,
    ) -> None:
        self._task_id = task_id
        self._caller = caller
        self._seq = after_seq
        self._reader = reader
        self._tasks = tasks
        self._waiters = waiters
        self._watching = ExitStack()
        self._waiter: Waiter | None = None
        self._is_over = False

    async def start(self) -> None:
        """Begin to wait for changes of the task."""
        self._waiter = self._watching.enter_context(self._waiters.watch(self._task_id))

    async def next(self, seconds: float) -> Sequence[Message] | None:
        """Return the next events of the task."""
        assert self._waiter is not None
        while not (self._is_over or self._waiters.stopping):
            # Armed before the events are read, so that a change in between is not missed.
            self._waiter.arm()
            events = await self._reader.list_after(self._task_id, self._seq)
            if events:
                self._seq = events[-1].seq
                self._is_over = len(events) < EVENTS_AT_ONCE and is_end(events[-1].type, events[-1].data)
                messages = [event.message for event in events]
                return messages if self._caller.has(Permission.TASKS_READ_CONTENT) else hide_content(messages)
            if await self._has_ended():
                break
            if not await self._waiter.wait(seconds, self._seq):
                return []
        return None

    def close(self) -> None:
        """Stop waiting for changes."""
        self._watching.close()

    async def _has_ended(self) -> bool:
        """Return whether no event will follow, because the task is done or was deleted."""
        task = await self._tasks.find_version(self._task_id, self._caller)
        return task is None or (task.done and task.version <= self._seq)
