"""Statements on batches: tasks that were submitted together."""

from __future__ import annotations

from typing import Any, Final
from uuid import UUID

from sqlalchemy import ColumnElement, Select, func, select

from shared.tables.batches import batch_follow_ups
from shared.tables.tasks import tasks

LIST_BATCH: Final = "SELECT id FROM tasks WHERE batch_id = %(batch_id)s ORDER BY id"
"""List the ids of a batch's tasks, in the order in which they were submitted."""

COUNT_BATCHES: Final = """
SELECT asked.batch_id, task.organization_id, task.status, count(*) AS tasks,
    min(task.created_at) AS created_at, max(task.finished_at) AS finished_at, sum(task.version) AS versions
FROM unnest(%(ids)s::uuid[]) AS asked (batch_id) JOIN tasks task ON task.batch_id = ANY (ARRAY[asked.batch_id])
GROUP BY asked.batch_id, task.organization_id, task.status"""
"""Count the tasks of several batches by status.

Returns (batch_id, organization_id, status, tasks, created_at of the first, finished_at of the last, sum of the versions).
"""

INSERT_FOLLOW_UP: Final = """
INSERT INTO batch_follow_ups (batch_id, on_finished) VALUES (%(batch_id)s, (%(submissions)s::jsonb)->0)"""
"""Store the task that is submitted when the last task of a batch has ended, the first of a `submission_document`."""


def find_follow_up(batch_id: UUID) -> Select[Any]:
    """Find what a batch submits when its last task has ended: (kind, task_id); `task_id` is None until then."""
    return select(batch_follow_ups.c.on_finished["kind"].astext.label("kind"), batch_follow_ups.c.task_id).where(
        batch_follow_ups.c.batch_id == batch_id
    )


def count_batch(batch_id: UUID, organization_id: UUID | None) -> Select[Any]:
    """Count a batch's tasks by status: (status, tasks, first created_at, last finished_at).

    Returns no row unless the batch belongs to the organization, if one is given. A foreign batch takes as long as one that
    does not exist, however large it is: its organization is read from one task, before the others are counted.
    """
    statement = (
        select(
            tasks.c.status,
            func.count().label("tasks"),
            func.min(tasks.c.created_at).label("created_at"),
            func.max(tasks.c.finished_at).label("finished_at"),
        )
        .where(tasks.c.batch_id == batch_id)
        .group_by(tasks.c.status)
    )
    return statement if organization_id is None else statement.where(is_batch_of(batch_id, organization_id))


def is_batch_of(batch_id: UUID, organization_id: UUID) -> ColumnElement[bool]:
    """Return the condition that a batch belongs to an organization, which reads one task of the batch."""
    first = tasks.alias("first")
    owner = select(first.c.organization_id).where(first.c.batch_id == batch_id).limit(1).scalar_subquery()
    return owner == organization_id


def lock_batch(batch_id: UUID) -> Select[Any]:
    """List (id, organization_id, owner_id) of a batch's tasks, and lock their rows.

    They are locked in the order of ids, which prevents deadlocks with other statements.
    """
    columns = (tasks.c.id, tasks.c.organization_id, tasks.c.owner_id)
    return select(*columns).where(tasks.c.batch_id == batch_id).order_by(tasks.c.id).with_for_update()
