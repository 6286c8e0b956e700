"""Tables of queues: what is paused, and how many attempts started and ended lately.

Both tables may be emptied at any time without losing a task: nothing is paused then, and rates are unknown for a minute.
"""

from __future__ import annotations

from sqlalchemy import CheckConstraint, Column, DateTime, Integer, Table, Text, Uuid, func

from shared.tables.base import metadata

moment = DateTime(timezone=True)

pauses = Table(
    "pauses",
    metadata,
    Column("target", Text, primary_key=True),
    Column("name", Text, primary_key=True),
    Column("since", moment, nullable=False, server_default=func.now()),
    # Who paused it.
    Column("caller_id", Uuid, nullable=False),
    CheckConstraint("target IN ('queue', 'kind')", name="known_target"),
)

queue_activity = Table(
    "queue_activity",
    metadata,
    Column("queue", Text, primary_key=True),
    # The start of a span of `SPAN_SECONDS` (`shared/queries/queues.py`).
    Column("at", moment, primary_key=True),
    Column("started", Integer, nullable=False),
    Column("ended", Integer, nullable=False),
)
