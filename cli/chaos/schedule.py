"""Plans which faults happen when. The same seed, length and faults give the same schedule."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from shared.contracts.kind import QUEUES

QUIET_SECONDS: Final = 3.0
"""Time before the first fault, so that it finds work."""
SHORTEST_GAP_SECONDS: Final = 2.0
LONGEST_GAP_SECONDS: Final = 6.0
FREEZE_SECONDS: Final = 5.0
"""How long a server misbehaves that is not killed."""

FAULTS: Final[dict[str, str]] = {
    "kill-worker": "SIGKILL to the worker of a queue",
    "kill-child": "SIGKILL to the limited children of workers",
    "kill-relay": "SIGKILL to the relay",
    "kill-beat": "SIGKILL to beat",
    "kill-api": "SIGKILL to the API",
    "kill-flower": "SIGKILL to Flower",
    "stop-worker": "SIGSTOP to the worker of a queue for longer than a lease, then SIGCONT",
    "flush-broker": "FLUSHALL, five times",
    "kill-broker": "SIGKILL to the broker, whose file is removed",
    "freeze-broker": "SIGSTOP to the broker for five seconds, then SIGCONT",
    "crash-postgres": "an immediate shutdown of Postgres",
    "stall-mail": "the mail server answers nothing for five seconds",
    "put-off-mail": "the mail server answers 421 to the next five messages",
    "drop-mail": "the mail server accepts the next three messages, and closes the connection without an answer",
    "pause-queue": "a queue is paused for five seconds, and the relay is killed meanwhile",
    "redeliver": "every message is delivered five times, for five seconds",
}
"""Every fault, and what it does."""


@dataclass(frozen=True)
class Fault:
    """One fault: when it happens, counted from the start of the work, and the queue that it hits, if it hits one."""

    at_seconds: float
    name: str
    queue: str

    def __str__(self) -> str:
        where = f" {self.queue}" if self.name in {"kill-worker", "stop-worker", "pause-queue"} else ""
        return f"{self.at_seconds:6.1f} s  {self.name}{where}"


def plan_faults(seed: int, seconds: float, names: Sequence[str], lease_seconds: float) -> list[Fault]:
    """Return the faults of a run. Each of the names comes once before any comes again, in an order that the seed gives."""
    return list(_plan(random.Random(seed), seconds, sorted(names), lease_seconds))  # noqa: S311 - nothing is secret.


def stop_seconds(lease_seconds: float) -> float:
    """Return how long a worker is stopped: longer than its lease."""
    return lease_seconds * 1.5


def _duration_seconds(name: str, lease_seconds: float) -> float:
    """Return how many seconds a fault takes, before the pause until the next."""
    if name == "stop-worker":
        return stop_seconds(lease_seconds)
    return FREEZE_SECONDS if name in {"freeze-broker", "stall-mail", "pause-queue", "redeliver"} else 0.0


def _plan(chance: random.Random, seconds: float, names: list[str], lease_seconds: float) -> Iterator[Fault]:
    at_seconds = QUIET_SECONDS
    left: list[str] = []
    while names and at_seconds < seconds:
        if not left:
            left = chance.sample(names, len(names))
        name = left.pop()
        yield Fault(round(at_seconds, 1), name, chance.choice(QUEUES))
        at_seconds += _duration_seconds(name, lease_seconds) + chance.uniform(SHORTEST_GAP_SECONDS, LONGEST_GAP_SECONDS)
