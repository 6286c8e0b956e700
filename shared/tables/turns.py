"""The fair order of each queue: how far it has come, and the last turn that each caller was given.

`shared/queries/publishing.py` says how turns are computed. Both tables may be emptied at any time without losing a task:
the order of tasks that are published stands in `tasks.turn`.
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
