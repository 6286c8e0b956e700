"""The table of what batches submit when their last task ends."""

from __future__ import annotations

from sqlalchemy import Column, DateTime, Table, Uuid, func
from sqlalchemy.dialects.postgresql import JSONB

from shared.tables.base import metadata

batch_follow_ups = Table(
    "batch_follow_ups",
    metadata,
    Column("batch_id", Uuid, primary_key=True),
    # A row of `shared.tasks.submission.submission_document`, without an id.
    Column("on_finished", JSONB, nullable=False),
    # The task that was submitted. None until the last task of the batch has ended.
    Column("task_id", Uuid),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
)
