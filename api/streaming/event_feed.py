"""The feed: reads the new events of many tasks, once for all streams of a process.

A position in the feed is a snapshot of Postgres: which transactions had committed. One read returns what a later snapshot
contains and the position does not, so that an event is read whenever its transaction commits, late or not, and no cursor skips
it. While streams are open, one statement reads for all of their callers and batches: soon after a wake-up, and otherwise once
in `FEED_POLL_SECONDS`. See decision 0021.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from itertools import groupby
from typing import Final, NamedTuple
from uuid import UUID

import structlog

from api.batcher import Batcher, HotConnection
from api.streaming.messages import Message
from shared.queries.events import LIST_EVENTS_BETWEEN
from shared.settings import Settings

STEP_EVENTS: Final = 2000
"""After about how many events of all callers a step ends early."""
NO_LIMIT: Final = 2**31 - 1
FEED_POLL_SECONDS: Final = 1.0
READ_PAUSE_SECONDS: Final = 0.1
"""The least time between two reads of the feed, which bounds what it costs when tasks change all the time."""
RETRY_SECONDS: Final = 1.0
MAX_PENDING_EVENTS: Final = 500
"""How many events of the feed wait for a stream that is slow to send. Beyond that it reads them itself, when it has sent."""
log = structlog.get_logger()


class Place(NamedTuple):
    """Where an event is in a step of the feed. Within one task, the order is that of `seq`."""

    at: datetime
    """The greatest time of the event and of the task's earlier events in the step."""
    task_id: UUID
    seq: int


class FeedEvent(NamedTuple):
    """An event, with what filters need to know of its task."""

    place: Place
    type: str
    at: datetime
    data: str
    """A JSON object."""
    kind: str
    queue: str
    tags: list[str]
    batch_id: UUID | None
    owner_id: UUID
    organization_id: UUID
    created_at: datetime
    workflow_id: UUID | None = None
    parent_id: UUID | None = None
    schedule_id: UUID | None = None
    rerun_of: UUID | None = None
    metadata: str = "{}"
    """A JSON object."""
    error_type: str | None = None
    """With an event that ended an attempt without success: the type of the error that the task shows now."""


class _Row(NamedTuple):
    """A row of `LIST_EVENTS_BETWEEN`: the step, and an event of it. If the step has no event, what follows is None."""

    since: str
    until: str
    is_past: bool
    is_early: bool
    task_id: UUID | None
    seq: int
    type: str
    at: datetime
    data: str
    kind: str
    queue: str
    tags: list[str]
    batch_id: UUID | None
    owner_id: UUID
    organization_id: UUID
    created_at: datetime
    workflow_id: UUID | None
    parent_id: UUID | None
    schedule_id: UUID | None
    rerun_of: UUID | None
    metadata: str
    error_type: str | None


class Step(NamedTuple):
    """The events that the snapshot `until` contains and `since` does not, in order."""

    since: str
    until: str
    is_past: bool
    """Whether `since` is a snapshot of the past of this database. It is not after a restore of an older backup."""
    is_early: bool
    """Whether the step ended before the snapshot that was asked for, because there are many events."""
    events: Sequence[FeedEvent]
    messages: dict[Place, Message]
    """The messages that streams have made of the events: the same for all of them, and made once."""


class _Wanted(NamedTuple):
    """What one read of the feed is asked for. A snapshot that is None is now."""

    since: str | None
    until: str | None
    owners: Iterable[UUID]
    batches: Iterable[UUID]
    limit: int


@dataclass(eq=False)
class Follower:
    """The steps that wait until one stream sends them, with the events of its caller or batch."""

    owner_id: UUID | None = None
    batch_id: UUID | None = None
    has_changed: asyncio.Event = field(default_factory=asyncio.Event)
    pending: list[Step] = field(default_factory=list)
    joined_at: str | None = None
    """The first snapshot from which on the feed contains everything of this follower; None until it is known.

    Set to None again if the stream was too slow, with `pending` cleared: the stream then reads by itself up to where it joins.
    """

    def add(self, step: Step) -> None:
        """Keep a step until the stream sends it, unless the stream is too slow."""
        self.pending.append(step)
        if sum(len(kept.events) for kept in self.pending) > MAX_PENDING_EVENTS and len(self.pending) > 1:
            self.pending.clear()
            self.joined_at = None
        self.has_changed.set()


class EventFeed:
    """The feed of one process. It reads only while it has followers."""

    def __init__(self, settings: Settings) -> None:
        self._reads: Batcher[_Wanted, Step] = Batcher(settings, "feed", self._read, limit=1)
        self._owners: defaultdict[UUID, set[Follower]] = defaultdict(set)
        self._batches: defaultdict[UUID, set[Follower]] = defaultdict(set)
        self._joining: set[Follower] = set()
        self._position: str | None = None
        self._wake = asyncio.Event()
        self._advancing: asyncio.Task[None] | None = None
        self._stopping = False

    @property
    def stopping(self) -> bool:
        """Whether the server stops, so that streams end."""
        return self._stopping

    @property
    def position(self) -> str | None:
        """The last snapshot that was read."""
        return self._position

    def wake(self) -> None:
        """Read soon, because tasks have changed."""
        self._wake.set()

    def stop(self) -> None:
        """End every stream, because the server stops."""
        self._stopping = True
        for follower in self._followers():
            follower.has_changed.set()

    async def close(self) -> None:
        """End every stream, and close the connection."""
        self.stop()
        if self._advancing is not None:
            self._advancing.cancel()
            await asyncio.gather(self._advancing, return_exceptions=True)
        await self._reads.close()

    @contextmanager
    def follow(self, *, owner_id: UUID | None = None, batch_id: UUID | None = None) -> Iterator[Follower]:
        """Yield a follower of a caller's or a batch's events, until the block ends."""
        follower = Follower(owner_id, batch_id)
        kept = self._owners if owner_id is not None else self._batches
        key = owner_id or batch_id
        assert key is not None
        kept[key].add(follower)
        self.rejoin(follower)
        if self._advancing is None:
            self._advancing = asyncio.create_task(self._advance())
        try:
            yield follower
        finally:
            self._joining.discard(follower)
            kept[key].discard(follower)
            if not kept[key]:
                del kept[key]
            if not self._owners and not self._batches and self._advancing is not None:
                self._advancing.cancel()
                self._advancing = self._position = None

    def rejoin(self, follower: Follower) -> None:
        """Set `joined_at` of a follower after the next read that includes the follower's events."""
        self._joining.add(follower)
        self._wake.set()

    async def read(self, since: str, until: str, owner_id: UUID, *, is_whole_step: bool = False) -> Step:
        """Return the events of a caller between two snapshots; with `is_whole_step`, all of them, else about `STEP_EVENTS`."""
        limit = NO_LIMIT if is_whole_step else STEP_EVENTS
        return await self._reads.submit(_Wanted(since, until, [owner_id], [], limit))

    async def _advance(self) -> None:
        """Read steps until cancelled, and pass each step to the followers that it concerns."""
        while True:
            self._wake.clear()
            joining = set(self._joining)
            wanted = _Wanted(self._position, None, list(self._owners), list(self._batches), STEP_EVENTS)
            try:
                step = await self._reads.submit(wanted)
            except Exception as error:
                log.warning("feed_read_failed", error=type(error).__name__)
                await asyncio.sleep(RETRY_SECONDS)
                continue
            self._position = step.until if step.is_past else None
            self._pass_on(step, joining)
            # Followers that came while the statement was running are not in it.
            for follower in joining & self._joining:
                self._joining.discard(follower)
                follower.joined_at = step.until
                follower.has_changed.set()
            if step.is_early:
                continue
            await asyncio.sleep(READ_PAUSE_SECONDS)
            if not self._joining:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(FEED_POLL_SECONDS):
                        await self._wake.wait()

    def _pass_on(self, step: Step, joining: set[Follower]) -> None:
        by_owner: defaultdict[UUID, list[FeedEvent]] = defaultdict(list)
        changed_batches = set()
        for event in step.events:
            by_owner[event.owner_id].append(event)
            if event.batch_id is not None:
                changed_batches.add(event.batch_id)
        for owner_id, events in by_owner.items():
            part = step._replace(events=events, messages={})
            for follower in self._owners.get(owner_id, ()):
                if follower.joined_at is not None:
                    follower.add(part)
        for batch_id in changed_batches:
            for follower in self._batches.get(batch_id, ()):
                follower.has_changed.set()

    def _followers(self) -> Iterator[Follower]:
        for followers in (*self._owners.values(), *self._batches.values()):
            yield from followers

    async def _read(self, connection: HotConnection, wanted: Sequence[_Wanted]) -> Sequence[Step]:
        return [await self._read_step(connection, one) for one in wanted]

    async def _read_step(self, connection: HotConnection, wanted: _Wanted) -> Step:
        parameters = {
            "since": wanted.since,
            "until": wanted.until,
            "owners": list(wanted.owners),
            "batches": list(wanted.batches),
            "limit": wanted.limit,
        }
        cursor = await connection.execute(LIST_EVENTS_BETWEEN, parameters)
        rows = [_Row._make(row) for row in await cursor.fetchall()]
        events: list[FeedEvent] = []
        for task_id, of_task in groupby(rows, key=lambda row: row.task_id):
            if task_id is not None:
                events += _place_events(task_id, of_task)
        events.sort(key=lambda event: event.place)
        step = rows[0]
        return Step(step.since, step.until, step.is_past, step.is_early, events, {})


def _place_events(task_id: UUID, rows: Iterable[_Row]) -> Iterator[FeedEvent]:
    """Yield the events of one task, whose rows are in the order of `seq`."""
    latest = None
    for row in rows:
        latest = row.at if latest is None else max(latest, row.at)
        yield FeedEvent(
            place=Place(latest, task_id, row.seq),
            type=row.type,
            at=row.at,
            data=row.data,
            kind=row.kind,
            queue=row.queue,
            tags=row.tags,
            batch_id=row.batch_id,
            owner_id=row.owner_id,
            organization_id=row.organization_id,
            created_at=row.created_at,
            workflow_id=row.workflow_id,
            parent_id=row.parent_id,
            schedule_id=row.schedule_id,
            rerun_of=row.rerun_of,
            metadata=row.metadata,
            error_type=row.error_type,
        )
