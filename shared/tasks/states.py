"""The states of a task and the only moves between them.

                  ┌────────────┐  due   ┌────────┐ claim  ┌─────────┐
    (new) ───────►│ scheduled  ├───────►│ queued ├───────►│ running ├──► succeeded, failed, cancelled
      │           └─────┬──────┘        └─┬─▲─▲──┘        └─┬─────┬─┘
      │                 │                 │ │ └─ handed back┘     │ failed, and attempts are left
      └─────────────────┼────────────────►│ │ due ┌──────────┐    │
                        │                 │ └─────┤ retrying │◄───┘
                        ▼                 ▼       └────┬─────┘
                       cancelled, expired ◄────────────┘

A caller's retry sends failed, cancelled and expired back to queued. The same table is held by the database: CHECK
constraints for what a state must bear, and a trigger for the moves (`migrations/`).
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final


class TaskStatus(StrEnum):
    """Where a task stands."""

    SCHEDULED = "scheduled"
    QUEUED = "queued"
    RUNNING = "running"
    RETRYING = "retrying"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"

    @property
    def done(self) -> bool:
        """Whether the state is terminal."""
        return self in DONE


S = TaskStatus
DONE: Final = frozenset({S.SUCCEEDED, S.FAILED, S.CANCELLED, S.EXPIRED})
LIVE: Final = frozenset(S) - DONE
RETRIABLE: Final = frozenset({S.FAILED, S.CANCELLED, S.EXPIRED})
DONE_VALUES: Final = frozenset(status.value for status in DONE)

MOVES: Final[frozenset[tuple[TaskStatus, TaskStatus]]] = frozenset(
    {
        (S.SCHEDULED, S.QUEUED),
        (S.RETRYING, S.QUEUED),
        (S.QUEUED, S.RUNNING),
        (S.RUNNING, S.SUCCEEDED),
        (S.RUNNING, S.FAILED),
        (S.RUNNING, S.CANCELLED),
        (S.RUNNING, S.RETRYING),
        (S.RUNNING, S.QUEUED),
        *((before, after) for before in (S.SCHEDULED, S.QUEUED, S.RETRYING) for after in (S.CANCELLED, S.EXPIRED)),
        *((before, S.QUEUED) for before in RETRIABLE),
    }
)
FIRST_STATES: Final = frozenset({S.SCHEDULED, S.QUEUED})
