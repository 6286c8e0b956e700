"""Computes the state of a batch from the counts of its tasks by status."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Protocol
from uuid import UUID

from api.following.task_models import BatchState
from shared.tasks.states import LIVE, TaskStatus


class StatusCount(Protocol):
    """How many tasks of a batch have one status. `tasks` is the number of tasks."""

    @property
    def status(self) -> str: ...
    @property
    def tasks(self) -> int: ...
    @property
    def created_at(self) -> datetime: ...
    @property
    def finished_at(self) -> datetime | None: ...


def batch_state(batch_id: UUID, counts: Sequence[StatusCount]) -> BatchState:
    """Return the state of a batch with at least one task."""
    is_live = any(row.status in LIVE for row in counts)
    return BatchState(
        id=batch_id,
        total=sum(row.tasks for row in counts),
        counts={TaskStatus(row.status): row.tasks for row in counts},
        created_at=min(row.created_at for row in counts),
        finished_at=None if is_live else max(row.finished_at for row in counts if row.finished_at is not None),
    )
