"""The stream of a batch: how many of its tasks have each status, whenever that changes, until all of them are done.

The feed wakes the stream when a task of the batch has changed. The counts of all watched batches are read in one round trip.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import datetime
from typing import Final, NamedTuple
from uuid import UUID

from api.auth.caller import Caller
from api.batcher import Batcher, HotConnection
from api.following.batch_states import batch_state
from api.following.task_models import BatchState
from api.streaming.event_feed import EventFeed, Follower
from api.streaming.messages import Message
from api.streaming.streams import Stream
from shared.permissions import Permission
from shared.queries.batches import COUNT_BATCHES
from shared.settings import Settings
from shared.tasks.states import TaskStatus

COUNT_PAUSE_SECONDS: Final = 0.2
"""The least time between two counts of a stream, since counting reads every task of the batch."""
COUNT_AGAIN_SECONDS: Final = 10.0
"""After how long without a change the tasks are counted again: a deleted task has no event."""


class _Counted(NamedTuple):
    """A row of `COUNT_BATCHES`: the tasks of a batch that have one status. `versions` is the sum of their versions."""

    batch_id: UUID
    organization_id: UUID
    status: str
    tasks: int
    created_at: datetime
    finished_at: datetime | None
    versions: int


class CountedBatch(NamedTuple):
    """The state of a batch, and a number that rises with every change of its tasks."""

    state: BatchState
    version: int
    organization_id: UUID


class BatchReader:
    """Counts the tasks of batches, of many batches in one round trip."""

    def __init__(self, settings: Settings) -> None:
        self._batches: Batcher[UUID, CountedBatch | None] = Batcher(settings, "batches", self._read)

    async def find(self, batch_id: UUID, caller: Caller) -> CountedBatch | None:
        """Return a batch, or None unless it exists and the caller may see it."""
        batch = await self._batches.submit(batch_id)
        return batch if batch is not None and caller.has_for(Permission.TASKS_READ, batch.organization_id) else None

    async def close(self) -> None:
        """Finish the submitted reads, then close the connection."""
        await self._batches.close()

    async def _read(self, connection: HotConnection, ids: Sequence[UUID]) -> Sequence[CountedBatch | None]:
        found: defaultdict[UUID, list[_Counted]] = defaultdict(list)
        cursor = await connection.execute(COUNT_BATCHES, {"ids": list(dict.fromkeys(ids))})
        for row in map(_Counted._make, await cursor.fetchall()):
            found[row.batch_id].append(row)
        return [_batch_of(batch_id, found[batch_id]) if batch_id in found else None for batch_id in ids]


def _batch_of(batch_id: UUID, counts: Sequence[_Counted]) -> CountedBatch:
    version = int(sum(row.versions for row in counts))
    return CountedBatch(batch_state(batch_id, counts), version, counts[0].organization_id)


class BatchStream(Stream):
    """The counts of one batch. The id of a message is the version of the batch."""

    def __init__(self, batch_id: UUID, caller: Caller, after: int, *, reader: BatchReader, feed: EventFeed) -> None:
        self._batch_id = batch_id
        self._caller = caller
        self._version = after
        self._reader = reader
        self._feed = feed
        self._following = ExitStack()
        self._follower: Follower | None = None
        self._counts: dict[TaskStatus, int] | None = None
        self._is_over = False
        self._count_at = 0.0

    async def start(self) -> None:
        """Begin to wait for changes of the batch's tasks."""
        self._follower = self._following.enter_context(self._feed.follow(batch_id=self._batch_id))

    async def next(self, seconds: float) -> Sequence[Message] | None:
        """Return the counts as soon as they differ from those that were sent last."""
        assert self._follower is not None
        deadline = time.monotonic() + seconds
        while not (self._is_over or self._feed.stopping):
            await asyncio.sleep(self._count_at - time.monotonic())
            self._count_at = time.monotonic() + COUNT_PAUSE_SECONDS
            self._follower.has_changed.clear()
            batch = await self._reader.find(self._batch_id, self._caller)
            if batch is None:
                break
            self._is_over = batch.state.finished_at is not None
            # A client that resumes with the current version has these counts already.
            is_known = batch.version == self._version and (self._counts is None or not self._is_over)
            has_changed = batch.state.counts != self._counts and not is_known
            self._counts = dict(batch.state.counts)
            self._version = batch.version
            if has_changed:
                return [Message(batch.version, "counts", batch.state.model_dump_json(exclude_unset=True).encode())]
            if self._is_over:
                break
            if time.monotonic() >= deadline:
                return []
            try:
                async with asyncio.timeout(min(COUNT_AGAIN_SECONDS, deadline - time.monotonic())):
                    await self._follower.has_changed.wait()
            except TimeoutError:
                pass
        return None

    def close(self) -> None:
        """Stop waiting for changes."""
        self._following.close()
