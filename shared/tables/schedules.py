"""What is due by the clock, which slots were done, and the signs of life of those who watch the clock."""

from __future__ import annotations

from sqlalchemy import Boolean, CheckConstraint, Column, DateTime, ForeignKey, Integer, Table, Text, Uuid, func
from sqlalchemy.dialects.postgresql import JSONB

from shared.tables.base import metadata

moment = DateTime(timezone=True)

schedules = Table(
    "schedules",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("name", Text, nullable=False, unique=True),
    Column("kind", Text, nullable=False),
    Column("params", JSONB, nullable=False),
    Column("every_seconds", Integer, nullable=False),
    Column("enabled", Boolean, nullable=False, server_default="true"),
    Column("created_at", moment, nullable=False, server_default=func.now()),
    CheckConstraint("every_seconds >= 1", name="every_seconds"),
)

schedule_slots = Table(
    "schedule_slots",
    metadata,
    Column("schedule_id", Uuid, ForeignKey("schedules.id", ondelete="CASCADE"), primary_key=True),
    Column("slot", moment, primary_key=True),
    Column("task_id", Uuid, nullable=False),
)

signs_of_life = Table(
    "signs_of_life",
    metadata,
    Column("part", Text, primary_key=True),
    Column("at", moment, nullable=False, server_default=func.now()),
)
