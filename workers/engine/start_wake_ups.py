"""Wakes those who follow a task when a worker has claimed it, so that they see `running` at once."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Final
from uuid import UUID

GATHER_SECONDS: Final = 0.1
"""How long claimed tasks are gathered for one message. A task that has ended by then needs none: its end has sent a wake-up."""


class StartWakeUps:
    """A thread that sends wake-ups of claimed tasks: those of all claims within `GATHER_SECONDS` by one message.

    Neither claims nor attempts wait for the broker. A wake-up that is lost only makes a follower slower.
    """

    def __init__(
        self, wake_waiters: Callable[[list[UUID]], None], list_unfinished: Callable[[], Iterable[UUID]]
    ) -> None:
        """Create the thread. `list_unfinished` returns the claimed tasks of this process whose ends are not written yet."""
        self._wake_waiters = wake_waiters
        self._list_unfinished = list_unfinished
        self._claimed: queue.SimpleQueue[UUID | None] = queue.SimpleQueue()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="start-wake-ups", daemon=True)

    def start(self) -> None:
        """Start to send wake-ups."""
        self._thread.start()

    def send_soon(self, task_id: UUID) -> None:
        """Queue a claimed task, and return at once."""
        self._claimed.put(task_id)

    def stop(self) -> None:
        """Stop. Wake-ups that were not sent are dropped."""
        self._stopping.set()
        self._claimed.put(None)
        if self._thread.is_alive():
            self._thread.join(timeout=2)

    def _run(self) -> None:
        while not self._stopping.is_set():
            task_id = self._claimed.get()
            if task_id is None or self._stopping.wait(GATHER_SECONDS):
                return
            claimed = {task_id, *self._take_claimed()}
            if unfinished := claimed.intersection(self._list_unfinished()):
                self._wake_waiters(list(unfinished))

    def _take_claimed(self) -> Iterator[UUID]:
        while not self._claimed.empty():
            if (task_id := self._claimed.get()) is not None:
                yield task_id
