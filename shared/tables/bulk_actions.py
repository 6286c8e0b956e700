"""How far each action on many tasks is: one row for each task of the kind `maintenance.bulk`."""

from __future__ import annotations

from sqlalchemy import BigInteger, CheckConstraint, Column, Table, Uuid
from sqlalchemy.dialects.postgresql import JSONB

from shared.tables.base import metadata

bulk_actions = Table(
    "bulk_actions",
    metadata,
    Column("task_id", Uuid, primary_key=True),
    # The last task that the action was tried on: tasks are taken in the order of their ids.
    Column("last_id", Uuid),
    Column("changed", BigInteger, nullable=False, server_default="0"),
    # How many tasks were left as they are, by the name of the problem that the action on one task would have had.
    Column("refused", JSONB, nullable=False, server_default="{}"),
    CheckConstraint("changed >= 0", name="changed"),
)
