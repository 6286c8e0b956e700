"""Statements on batches: tasks that were submitted together."""

from __future__ import annotations

from typing import Any, Final
from uuid import UUID

from sqlalchemy import Select, func, select

from shared.tables.tasks import tasks

LIST_BATCH: Final = "SELECT id FROM tasks WHERE batch_id = %(batch_id)s ORDER BY id"
"""List the ids of a batch's tasks, in the order in which they were submitted."""


def count_batch(batch_id: UUID) -> Select[Any]:
    """Count a batch's tasks by status: (organization_id, status, count, first created_at, last finished_at)."""
    return (
        select(
            tasks.c.organization_id,
            tasks.c.status,
            func.count().label("count"),
            func.min(tasks.c.created_at).label("created_at"),
            func.max(tasks.c.finished_at).label("finished_at"),
        )
        .where(tasks.c.batch_id == batch_id)
        .group_by(tasks.c.organization_id, tasks.c.status)
    )


def lock_batch(batch_id: UUID) -> Select[UUID]:
    """List the ids of a batch's tasks, and hold their rows in that order until the transaction ends, as all do."""
    return select(tasks.c.id).where(tasks.c.batch_id == batch_id).order_by(tasks.c.id).with_for_update()
