"""Tables of the fair order of queues: the last turn of each queue, and of each caller in it.

`shared/queries/publishing.py` describes how turns are computed. Both tables may be emptied at any time without losing a task:
the turn of each published task is stored in `tasks.turn`.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, DateTime, Double, Table, Text, Uuid, func

from shared.tables.base import metadata

queue_turns = Table(
    "queue_turns",
    metadata,
    Column("queue", Text, primary_key=True),
    # Raised by each statement that publishes tasks of the queue, so that two relays cannot publish by the same counts.
    Column("publications", BigInteger, nullable=False),
    Column("last_turn", Double, nullable=False),
)

caller_turns = Table(
    "caller_turns",
    metadata,
    Column("queue", Text, primary_key=True),
    Column("owner_id", Uuid, primary_key=True),
    Column("last_turn", Double, nullable=False),
    Column("at", DateTime(timezone=True), nullable=False, server_default=func.now()),
)
