"""Tables of the order in which tasks start: the last turn of each queue, and of each caller in it; and what limits need.

`shared/queries/publishing.py` describes how turns are computed. All tables may be emptied at any time without losing a task:
the turn of each published task is stored in `tasks.turn`. Without `rate_starts`, the rates of keys begin anew.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, DateTime, Double, Index, Table, Text, Uuid, func

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

organization_turns = Table(
    "organization_turns",
    metadata,
    Column("organization_id", Uuid, primary_key=True),
    # Raised by each statement that publishes tasks of the organization for which a limit counts, so that two statements for
    # different queues cannot publish by the same counts.
    Column("publications", BigInteger, nullable=False),
)

rate_starts = Table(
    "rate_starts",
    metadata,
    Column("organization_id", Uuid, nullable=False),
    Column("key", Text, nullable=False),
    Column("at", DateTime(timezone=True), nullable=False),
    # The attempt that started: a task may be deleted while its start still counts.
    Column("task_id", Uuid, primary_key=True),
    Column("attempt_claim", BigInteger, primary_key=True),
    Index("ix_rate_starts_key", "organization_id", "key", "at"),
    Index("ix_rate_starts_at", "at"),
)
