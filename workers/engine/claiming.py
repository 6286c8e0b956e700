"""Claims the next tasks of this worker's queues, and only as many as there is room for.

A message says that tasks of a queue are published, and Postgres says which task is next. A claim takes as many tasks as the
messages announced that arrived while the last claim ran, in the order of their turns.

Room is a free slot, or a little more while attempts end within milliseconds: then the next tasks are claimed before a slot
is free, but never so many that they would wait long while another worker, or another caller's task, could have the slot.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import psycopg

from shared import kill_points
from shared.contracts.catalog import list_kinds
from shared.database.connections import connect_hot
from shared.outage_log import OutageLog
from shared.queries import hot_tasks
from shared.queries.publishing import NOTIFY, UNMARK_NEXT
from shared.settings import Settings
from workers.engine.attempt import ClaimedTask

MAX_AHEAD: Final = 128
AHEAD_SECONDS: Final = 0.05
"""How long a claimed task may be expected to wait for a slot."""
SMOOTHING: Final = 0.1
CLAIM_RETRY_SECONDS: Final = 0.5
PATIENCE_SECONDS: Final = 0.5
"""How long announced tasks may wait here for room, before the relay is asked to publish them again for another worker."""
LOOK_SECONDS: Final = 0.1
"""After so long without a message, a worker with a free slot that has claimed something looks for more: a message may have
been lost, and each later message would then start the task before its own."""


class Round(NamedTuple):
    """What one claim asks for: how many tasks of each queue; and how many more of these queues were announced."""

    wanted: dict[str, int]
    rest: dict[str, int]


class Claimer:
    """A thread that claims announced tasks, and starts each with `start`."""

    def __init__(
        self,
        settings: Settings,
        worker: str,
        queues: Sequence[str],
        slots: int,
        start: Callable[[ClaimedTask], None],
        outage: OutageLog | None = None,
    ) -> None:
        self._settings = settings
        self._outage = outage or OutageLog("database")
        self._worker = worker
        self._queues = list(queues)
        self._slots = slots
        self._start = start
        self._kinds = list(list_kinds())
        self._announced: Counter[str] = Counter()
        """How many tasks of each queue were announced and not asked for yet."""
        self._announced_at = 0.0
        """When the oldest of these was announced, by the monotonic clock."""
        self._look_queues: set[str] = set()
        """Where to look, at `_look_at`, for tasks that no message announced, if nothing is announced until then."""
        self._look_at = 0.0
        self._taken = 0
        self._mean_seconds = 1.0
        self._changed = threading.Condition()
        self._stopping = False
        self._refused = False
        self.heard_at = time.monotonic()
        """When the last message arrived."""
        self.on_hungry: Callable[[], None] = lambda: None
        """Called, by any thread, when messages are wanted again after `wants_more` said that they were not."""
        self._thread = threading.Thread(target=self._run, name="claimer", daemon=True)

    def start(self) -> None:
        """Start to claim."""
        self._thread.start()

    def announce(self, queue: str, tasks: int) -> None:
        """Note that so many tasks of a queue were published. A queue that is not this worker's is ignored."""
        self.heard_at = time.monotonic()
        if queue not in self._queues or tasks < 1:
            return
        with self._changed:
            if not self._stopping:
                if not self._announced:
                    self._announced_at = self.heard_at
                self._announced[queue] += tasks
                self._changed.notify()

    def release(self, seconds: float | None) -> None:
        """Note that a claimed task has ended, after so many seconds, or (None) without having run."""
        with self._changed:
            self._taken -= 1
            if seconds is not None:
                self._mean_seconds += SMOOTHING * (seconds - self._mean_seconds)
            self._changed.notify()
        self._tell_if_hungry()

    def wants_more(self) -> bool:
        """Return whether more messages are wanted: no more than soon find room, for other workers could have them."""
        hungry = self._is_hungry()
        if not hungry:
            self._refused = True
            # It may have become hungry before it was noted that it was not.
            hungry = self._is_hungry()
        return hungry

    def slow_down(self) -> None:
        """Claim nothing ahead, because claimed tasks wait, until several attempts have ended fast again."""
        with self._changed:
            self._mean_seconds = max(self._mean_seconds, 1.0)

    def stop(self) -> None:
        """Claim nothing more, and let the relay publish again what was announced here."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join(timeout=5)

    def _is_hungry(self) -> bool:
        return not self._stopping and self._announced.total() < self._room() + self._ahead()

    def _tell_if_hungry(self) -> None:
        if self._refused and self._is_hungry():
            self._refused = False
            self.on_hungry()

    def _ahead(self) -> int:
        return min(MAX_AHEAD, int(self._slots * AHEAD_SECONDS / max(self._mean_seconds, 1e-6)))

    def _room(self) -> int:
        return self._slots + self._ahead() - self._taken

    def _run(self) -> None:
        connection: psycopg.Connection[tuple[Any, ...]] | None = None
        while not self._stopping or self._announced:
            round_ = self._wait_for_room()
            if round_ is None and not self._announced:
                continue
            self._tell_if_hungry()
            try:
                if connection is None or connection.closed:
                    connection = connect_hot(self._settings, "worker-claim", durable=False)
                if round_ is None:
                    self._give_up_announcements(connection)
                    continue
                claimed = self._claim(connection, round_.wanted)
                self._outage.end()
            except psycopg.Error as error:
                self._outage.warn(error)
                if connection is not None:
                    connection.close()
                if round_ is not None:
                    self._try_again_soon(round_)
                continue
            if claimed:
                kill_points.reach("after-claim")
            self._note_claimed(round_, claimed)
            self._tell_if_hungry()
            for task in claimed:
                self._start(task)
        if connection is not None:
            connection.close()

    def _wait_for_room(self) -> Round | None:
        """Wait until there is something to claim and room for it; None if announced tasks have waited too long, or at a stop."""
        with self._changed:
            while not self._stopping:
                now, wait_until = time.monotonic(), None
                if self._announced:
                    if (room := self._room()) > 0:
                        return self._divide(room, self._announced)
                    wait_until = self._announced_at + PATIENCE_SECONDS
                    if now >= wait_until:
                        return None
                elif self._look_queues and (free := self._slots - self._taken) > 0:
                    wait_until = self._look_at
                    if now >= wait_until:
                        looks = Counter(dict.fromkeys(self._look_queues, free))
                        round_ = self._divide(free, looks)
                        self._look_queues -= set(round_.wanted)
                        return round_
                self._changed.wait(None if wait_until is None else wait_until - now)
            return None

    def _divide(self, room: int, announced: Counter[str]) -> Round:
        """Take so much room and divide it among queues, each getting no more than was announced.

        Where there is not room for all, the queues come first in turn. The queues that get some are removed from `announced`.
        """
        self._queues.append(self._queues.pop(0))
        shares = {queue: 0 for queue in self._queues if announced[queue]}
        while room > 0 and (open_queues := [queue for queue, share in shares.items() if share < announced[queue]]):
            each = max(1, room // len(open_queues))
            for queue in open_queues:
                more = min(each, announced[queue] - shares[queue], room)
                shares[queue] += more
                room -= more
        wanted = {queue: share for queue, share in shares.items() if share}
        self._taken += sum(wanted.values())
        return Round(wanted, {queue: announced.pop(queue) - share for queue, share in wanted.items()})

    def _claim(self, connection: psycopg.Connection[tuple[Any, ...]], wanted: Mapping[str, int]) -> list[ClaimedTask]:
        parameters = {
            "queues": list(wanted),
            "counts": list(wanted.values()),
            "kinds": self._kinds,
            # Half of the range, so that a claim's complement, which the fence uses too, is never a claim.
            "claims": [secrets.randbits(63) for _ in range(sum(wanted.values()))],
            "lease": self._settings.lease_seconds,
            "worker": self._worker,
        }
        return [ClaimedTask._make(row) for row in connection.execute(hot_tasks.CLAIM, parameters).fetchall()]

    def _note_claimed(self, round_: Round, claimed: Sequence[ClaimedTask]) -> None:
        """Free the room that was not used. Where fewer tasks were found than wanted, no more announcements are true."""
        found = Counter(task.queue for task in claimed)
        with self._changed:
            self._taken -= sum(round_.wanted.values()) - len(claimed)
            self._announced += Counter(
                {queue: rest for queue, rest in round_.rest.items() if found[queue] == round_.wanted[queue]}
            )
            if claimed:
                self._look_queues |= found.keys()
                self._look_at = time.monotonic() + LOOK_SECONDS
            self._announced_at = time.monotonic()

    def _give_up_announcements(self, connection: psycopg.Connection[tuple[Any, ...]]) -> None:
        """Unmark the announced tasks, and notify the relay. If this fails, the relay republishes them later."""
        with self._changed:
            announced, self._announced = self._announced, Counter()
        for queue, tasks in announced.items():
            connection.execute(UNMARK_NEXT, {"queue": queue, "tasks": tasks})
            connection.execute(NOTIFY, {"channel": hot_tasks.DUE_CHANNEL, "queues": queue})

    def _try_again_soon(self, round_: Round) -> None:
        """Keep the announcements; a task that was claimed without our knowing is swept when its lease is over."""
        with self._changed:
            self._taken -= sum(round_.wanted.values())
            self._announced += Counter(round_.wanted) + Counter(round_.rest)
        time.sleep(CLAIM_RETRY_SECONDS)
