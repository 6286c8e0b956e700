"""Tables of workflows and their steps."""

from __future__ import annotations

from sqlalchemy import (
    ARRAY,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    ForeignKey,
    Index,
    SmallInteger,
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

workflows = Table(
    "workflows",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("organization_id", Uuid, nullable=False),
    Column("owner_id", Uuid, nullable=False),
    Column("name", Text),
    Column("status", Text, nullable=False, server_default="running"),
    Column("schedule_id", Uuid),
    Column("created_at", moment, nullable=False, server_default=func.now()),
    Column("cancel_requested_at", moment),
    Column("finished_at", moment),
    CheckConstraint("status IN ('running', 'succeeded', 'failed', 'cancelled')", name="known_status"),
    CheckConstraint("(status = 'running') = (finished_at IS NULL)", name="finished_iff_done"),
    Index("ix_workflows_organization", "organization_id", text("id DESC")),
    Index(
        "ix_workflows_schedule",
        "schedule_id",
        postgresql_where=text("schedule_id IS NOT NULL AND finished_at IS NULL"),
    ),
)

workflow_steps = Table(
    "workflow_steps",
    metadata,
    Column("workflow_id", Uuid, ForeignKey("workflows.id", ondelete="CASCADE"), primary_key=True),
    Column("name", Text, primary_key=True),
    # A step's place is greater than that of each step before it; its position is that in the submission.
    Column("place", SmallInteger, nullable=False),
    Column("position", SmallInteger, nullable=False),
    Column("after", ARRAY(Text), nullable=False),
    Column("on_failure", Text, nullable=False, server_default="cancel"),
    # A row of `shared.tasks.submission.submission_document`, whose params may have references in them.
    Column("submission", JSONB, nullable=False),
    Column("refs", JSONB, nullable=False),
    Column("for_each", JSONB),
    # The task of the step. A step with `for_each` has many, which name the step, and none before it starts.
    Column("task_id", Uuid),
    Column("status", Text, nullable=False),
    # Whether the step was cancelled because one before it did not succeed.
    Column("upstream_failed", Boolean, nullable=False, server_default="false"),
    # Why the step ended without being started.
    Column("error", JSONB),
    Column("started_at", moment),
    CheckConstraint(
        "status IN ('waiting', 'running', 'succeeded', 'failed', 'cancelled', 'expired')", name="known_status"
    ),
    CheckConstraint("on_failure IN ('cancel', 'continue')", name="known_on_failure"),
    CheckConstraint("(for_each IS NULL) = (task_id IS NOT NULL)", name="one_task_or_for_each"),
    UniqueConstraint("workflow_id", "place"),
)
