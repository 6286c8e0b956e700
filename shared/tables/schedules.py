"""Tables of schedules, the slots that have a task, and the signs of life of the parts."""

from __future__ import annotations

from sqlalchemy import (
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    ForeignKey,
    Index,
    Integer,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

from shared.tables.base import metadata

moment = DateTime(timezone=True)

schedules = Table(
    "schedules",
    metadata,
    Column("id", Uuid, primary_key=True),
    # The defaults are those of the platform's own schedules: an older version inserts only such, without these columns.
    Column("organization_id", Uuid, nullable=False, server_default="00000000-0000-7000-8000-000000000000"),
    Column("owner_id", Uuid, nullable=False, server_default="00000000-0000-7000-8000-000000000000"),
    Column("name", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("params", JSONB, nullable=False),
    Column("options", JSONB, nullable=False, server_default="{}"),
    # {"definition": as it was submitted, "plans": of `shared.workflows.submission`}. Then `kind` is "workflow".
    Column("workflow", JSONB),
    Column("cron", Text),
    Column("every_seconds", Integer),
    Column("timezone", Text, nullable=False, server_default="UTC"),
    Column("starts_at", moment),
    Column("ends_at", moment),
    Column("jitter_seconds", Integer, nullable=False, server_default="0"),
    Column("missed", Text, nullable=False, server_default="run_once"),
    Column("overlap", Text, nullable=False, server_default="allow"),
    Column("enabled", Boolean, nullable=False, server_default="true"),
    # The first slot that beat has not processed. NULL when the rule has no further slot.
    Column("next_at", moment, server_default=text("to_timestamp(0)")),
    # When `next_at` was computed, by the clock of the database. If it is in the future, the clock was set back.
    Column("planned_at", moment, nullable=False, server_default=func.now()),
    # Why the last slot has no task, as a problem; NULL when it has one.
    Column("last_error", JSONB),
    # As of that slot: {"description": the rule in plain words, "next_times": [the next five]}, for the webhook about it.
    Column("failure_details", JSONB),
    # What each of its tasks asks for when it ends, in the form of `FollowUp.document`.
    Column("follow_up", JSONB(none_as_null=True)),
    Column("version", Integer, nullable=False, server_default="1"),
    Column("created_at", moment, nullable=False, server_default=func.now()),
    Column("updated_at", moment, nullable=False, server_default=func.now()),
    UniqueConstraint("organization_id", "name"),
    CheckConstraint("every_seconds >= 1", name="every_seconds"),
    CheckConstraint("num_nonnulls(cron, every_seconds) = 1", name="cron_or_every"),
    CheckConstraint("missed IN ('skip', 'run_once', 'run_all')", name="known_missed"),
    CheckConstraint("overlap IN ('allow', 'skip')", name="known_overlap"),
    CheckConstraint("jitter_seconds >= 0", name="jitter_seconds"),
    Index("ix_schedules_due", "next_at", postgresql_where=text("enabled AND next_at IS NOT NULL")),
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
    Column("since", moment, nullable=False, server_default=func.now()),
    # Of a worker: {"queues": […], "slots": n, "version": "…"}. NULL for other parts, and for workers of an older version.
    Column("details", JSONB),
)
