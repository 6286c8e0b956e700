"""Statements on the progress of actions on many tasks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final
from uuid import UUID

from sqlalchemy import Executable, Select, select, update
from sqlalchemy.dialects.postgresql import insert

from shared.tables.bulk_actions import bulk_actions

ALLOW_LONG_READ: Final = "SET LOCAL statement_timeout = '5min'"
"""Raise the time limit of the transaction's statements, which may search a large table for a few tasks."""


def begin_action(task_id: UUID) -> Executable:
    """Store that an action has begun, unless an earlier attempt did."""
    return insert(bulk_actions).values(task_id=task_id).on_conflict_do_nothing()


def find_action(task_id: UUID) -> Select[Any]:
    """Return how far an action is: (last_id, changed, refused)."""
    return select(bulk_actions.c.last_id, bulk_actions.c.changed, bulk_actions.c.refused).where(
        bulk_actions.c.task_id == task_id
    )


def store_step(task_id: UUID, last_id: UUID, changed: int, refused: Mapping[str, int]) -> Executable:
    """Store how far an action is after a step."""
    values = {"last_id": last_id, "changed": changed, "refused": dict(refused)}
    return update(bulk_actions).where(bulk_actions.c.task_id == task_id).values(**values)
