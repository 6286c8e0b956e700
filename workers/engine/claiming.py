"""Claims the next tasks of this worker's queues, and only as many as there is room for.

A message says that tasks of a queue are published, and Postgres says which task is next. A claim takes as many tasks as the
messages announced that arrived while the last claim ran, in the order of their turns.

There is room for as many tasks as slots are free, and for a few more while attempts end within milliseconds: these are
claimed ahead, before a slot is free, but never so many that they would wait long while another worker, or another caller's
task, could have the slot.
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
LONGEST_ANNOUNCED_SECONDS: Final = 0.5
"""How long announced tasks may wait here for room, before they are unmarked and the relay publishes them for another worker."""
UNANNOUNCED_CHECK_SECONDS: Final = 0.1
"""After so long without a message, a worker with a free slot that has claimed something tries to claim more: a message may
have been lost, and each later message would then start the task before its own."""


class ClaimRequest(NamedTuple):
    """What one claim asks for, by queue: how many tasks at most, and how many more were announced and are not asked for."""

    counts: dict[str, int]
    not_asked: dict[str, int]


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
        self._unannounced_queues: set[str] = set()
        """Where to claim, at `_unannounced_check_at`, tasks that no message announced, if nothing is announced until then."""
        self._unannounced_check_at = 0.0
        self._occupied = 0
        """How many tasks are asked for, or claimed and not ended."""
        self._mean_seconds = 1.0
        self._changed = threading.Condition()
        self._stopping = False
        self._has_refused_messages = False
        self.last_message_at = time.monotonic()
        """When the last message arrived, by the monotonic clock."""
        self.on_messages_wanted: Callable[[], None] = lambda: None
        """Called, by any thread, when messages are wanted again after `wants_messages` said that they were not."""
        self._thread = threading.Thread(target=self._run, name="claimer", daemon=True)

    def start(self) -> None:
        """Start to claim."""
        self._thread.start()

    def announce(self, queue: str, tasks: int) -> None:
        """Note that so many tasks of a queue were published. A queue that is not this worker's is ignored."""
        self.last_message_at = time.monotonic()
        if queue not in self._queues or tasks < 1:
            return
        with self._changed:
            if not self._stopping:
                if not self._announced:
                    self._announced_at = self.last_message_at
                self._announced[queue] += tasks
                self._changed.notify()

    def free_slot(self, seconds: float | None) -> None:
        """Note that an attempt has ended, after so many seconds, or (None) without having run."""
        with self._changed:
            self._occupied -= 1
            if seconds is not None:
                self._mean_seconds += SMOOTHING * (seconds - self._mean_seconds)
            self._changed.notify()
        self._notify_if_messages_are_wanted()

    def wants_messages(self) -> bool:
        """Return whether more messages are wanted: no more than there is room for soon, since other workers could have them."""
        if self._are_messages_wanted():
            return True
        self._has_refused_messages = True
        # There may be room again since the check before this was noted.
        return self._are_messages_wanted()

    def slow_down(self) -> None:
        """Claim nothing ahead until several attempts have ended fast again, because claimed tasks wait for a slot."""
        with self._changed:
            self._mean_seconds = max(self._mean_seconds, 1.0)

    def stop(self) -> None:
        """Claim nothing more, and unmark what was announced here, so that the relay publishes it again."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join(timeout=5)

    def _are_messages_wanted(self) -> bool:
        return not self._stopping and self._announced.total() < self._room() + self._ahead()

    def _notify_if_messages_are_wanted(self) -> None:
        if self._has_refused_messages and self._are_messages_wanted():
            self._has_refused_messages = False
            self.on_messages_wanted()

    def _ahead(self) -> int:
        return min(MAX_AHEAD, int(self._slots * AHEAD_SECONDS / max(self._mean_seconds, 1e-6)))

    def _room(self) -> int:
        return self._slots + self._ahead() - self._occupied

    def _run(self) -> None:
        connection: psycopg.Connection[tuple[Any, ...]] | None = None
        while not self._stopping or self._announced:
            request = self._wait_for_room()
            if request is None and not self._announced:
                continue
            self._notify_if_messages_are_wanted()
            try:
                if connection is None or connection.closed:
                    connection = connect_hot(self._settings, "worker-claim", durable=False)
                if request is None:
                    self._unmark_announced(connection)
                    continue
                claimed = self._claim(connection, request.counts)
                self._outage.end()
            except psycopg.Error as error:
                self._outage.warn(error)
                if connection is not None:
                    connection.close()
                if request is not None:
                    self._keep_announcements(request)
                continue
            if claimed:
                kill_points.reach("after-claim")
            self._note_claimed(request, claimed)
            self._notify_if_messages_are_wanted()
            for task in claimed:
                self._start(task)
        if connection is not None:
            connection.close()

    def _wait_for_room(self) -> ClaimRequest | None:
        """Wait until there is something to claim and room for it.

        Return None if announced tasks have waited for too long, or when the claimer stops.
        """
        with self._changed:
            while not self._stopping:
                now, wait_until = time.monotonic(), None
                if self._announced:
                    if (room := self._room()) > 0:
                        return self._make_request(room, self._announced)
                    wait_until = self._announced_at + LONGEST_ANNOUNCED_SECONDS
                    if now >= wait_until:
                        return None
                elif self._unannounced_queues and (free := self._slots - self._occupied) > 0:
                    wait_until = self._unannounced_check_at
                    if now >= wait_until:
                        request = self._make_request(free, Counter(dict.fromkeys(self._unannounced_queues, free)))
                        self._unannounced_queues -= set(request.counts)
                        return request
                self._changed.wait(None if wait_until is None else wait_until - now)
            return None

    def _make_request(self, room: int, announced: Counter[str]) -> ClaimRequest:
        """Occupy so much room and divide it among the queues, each getting no more than was announced.

        Where there is not room for all, another queue comes first each time. Queues that get some are removed from `announced`.
        """
        self._queues.append(self._queues.pop(0))
        shares = {queue: 0 for queue in self._queues if announced[queue]}
        while room > 0 and (open_queues := [queue for queue, share in shares.items() if share < announced[queue]]):
            each = max(1, room // len(open_queues))
            for queue in open_queues:
                more = min(each, announced[queue] - shares[queue], room)
                shares[queue] += more
                room -= more
        counts = {queue: share for queue, share in shares.items() if share}
        self._occupied += sum(counts.values())
        return ClaimRequest(counts, {queue: announced.pop(queue) - count for queue, count in counts.items()})

    def _claim(self, connection: psycopg.Connection[tuple[Any, ...]], counts: Mapping[str, int]) -> list[ClaimedTask]:
        parameters = {
            "queues": list(counts),
            "counts": list(counts.values()),
            "kinds": self._kinds,
            # Half of the range, so that a claim's complement, which the fence uses too, is never a claim.
            "claims": [secrets.randbits(63) for _ in range(sum(counts.values()))],
            "lease": self._settings.lease_seconds,
            "worker": self._worker,
        }
        return [ClaimedTask._make(row) for row in connection.execute(hot_tasks.CLAIM, parameters).fetchall()]

    def _note_claimed(self, request: ClaimRequest, claimed: Sequence[ClaimedTask]) -> None:
        """Free the room that was not used, and announce again what was not asked for.

        A queue in which fewer tasks were found than asked for has no more, so what is left of its announcements is dropped.
        """
        found = Counter(task.queue for task in claimed)
        with self._changed:
            self._occupied -= sum(request.counts.values()) - len(claimed)
            self._announced += Counter(
                {queue: tasks for queue, tasks in request.not_asked.items() if found[queue] == request.counts[queue]}
            )
            if claimed:
                self._unannounced_queues |= found.keys()
                self._unannounced_check_at = time.monotonic() + UNANNOUNCED_CHECK_SECONDS
            self._announced_at = time.monotonic()

    def _unmark_announced(self, connection: psycopg.Connection[tuple[Any, ...]]) -> None:
        """Unmark the announced tasks, and notify the relay. If this fails, the relay republishes them later."""
        with self._changed:
            announced, self._announced = self._announced, Counter()
        for queue, tasks in announced.items():
            connection.execute(UNMARK_NEXT, {"queue": queue, "tasks": tasks})
            connection.execute(NOTIFY, {"channel": hot_tasks.DUE_CHANNEL, "queues": queue})

    def _keep_announcements(self, request: ClaimRequest) -> None:
        """Announce again what a failed claim asked for, after a pause.

        If the claim was committed and only its answer was lost, the tasks are swept when their leases end.
        """
        with self._changed:
            self._occupied -= sum(request.counts.values())
            self._announced += Counter(request.counts) + Counter(request.not_asked)
        time.sleep(CLAIM_RETRY_SECONDS)
