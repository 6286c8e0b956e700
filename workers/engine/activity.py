"""Counts the attempts that a worker process starts and ends, by queue, until the heartbeat writes the counts."""

from __future__ import annotations

import threading
from collections import Counter
from typing import Any

from shared.queries.canaries import CANARY_KIND
from workers.engine.attempt import ClaimedTask


class Activity:
    """Counts of attempts that were not written yet. Canaries do not count."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._started: Counter[str] = Counter()
        self._ended: Counter[str] = Counter()

    def note_start(self, task: ClaimedTask) -> None:
        """Count an attempt that starts."""
        self._note(self._started, task)

    def note_end(self, task: ClaimedTask) -> None:
        """Count an attempt that has ended, however it ended."""
        self._note(self._ended, task)

    def take(self) -> dict[str, Any] | None:
        """Return the counts as parameters of `ADD_ACTIVITY` and reset them, or return None if nothing happened."""
        with self._lock:
            started, self._started = self._started, Counter()
            ended, self._ended = self._ended, Counter()
        queues = sorted(started | ended)
        if not queues:
            return None
        return {
            "queues": queues,
            "started": [started[queue] for queue in queues],
            "ended": [ended[queue] for queue in queues],
        }

    def _note(self, counts: Counter[str], task: ClaimedTask) -> None:
        if task.kind != CANARY_KIND:
            with self._lock:
                counts[task.queue] += 1
