"""The states of a task and the allowed moves between them.

                  ┌────────────┐  due   ┌────────┐ claim  ┌─────────┐
    (new) ───────►│ scheduled  ├───────►│ queued ├───────►│ running ├──► succeeded, failed, cancelled
      │           └─────┬──────┘        └─┬─▲─▲──┘        └─┬─────┬─┘
      │                 │                 │ │ └── requeued ─┘     │ failed, and attempts are left
      └─────────────────┼────────────────►│ │ due ┌──────────┐    │
                        │                 │ └─────┤ retrying │◄───┘
                        ▼                 ▼       └────┬─────┘
                       cancelled, expired ◄────────────┘

A retry by a caller moves a failed, cancelled or expired task to queued.

A step of a workflow that waits for the steps before it is scheduled without a time. It is queued when they have ended, fails
if a value that its params refer to does not exist, and is cancelled if one before it did not succeed. A retry of that one
moves it from cancelled back to scheduled.

The database enforces the same rules: CHECK
constraints for the columns that belong to a state, and a trigger for the moves (`migrations/`).
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final


class TaskStatus(StrEnum):
    """The state of a task."""

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
        (S.SCHEDULED, S.FAILED),
        (S.CANCELLED, S.SCHEDULED),
    }
)
FIRST_STATES: Final = frozenset({S.SCHEDULED, S.QUEUED})
SHOWS_ERROR: Final = DONE_VALUES - {S.SUCCEEDED.value} | {S.RETRYING.value}
"""The statuses in which a task shows its error. The row keeps the error of the last attempt also while the next one runs."""
