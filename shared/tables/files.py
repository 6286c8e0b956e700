"""The table of stored files: uploads and artifacts."""

from __future__ import annotations

from sqlalchemy import BigInteger, CheckConstraint, Column, DateTime, Index, LargeBinary, Table, Text, Uuid, func, text

from shared.tables.base import metadata

moment = DateTime(timezone=True)

files = Table(
    "files",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("organization_id", Uuid, nullable=False),
    Column("owner_id", Uuid, nullable=False),
    Column("name", Text, nullable=False),
    Column("media_type", Text, nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("sha256", LargeBinary, nullable=False),
    Column("origin", Text, nullable=False),
    Column("task_id", Uuid),
    Column("storage_key", Text, nullable=False, unique=True),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Column("expires_at", moment),
    CheckConstraint("origin IN ('upload', 'task')", name="known_origin"),
    CheckConstraint("(origin = 'task') = (task_id IS NOT NULL)", name="made_by_a_task"),
    CheckConstraint("size >= 0", name="size"),
    CheckConstraint("length(sha256) = 32", name="sha256"),
    Index("ix_files_organization", "organization_id", text("id DESC")),
    Index("ix_files_expires_at", "expires_at", postgresql_where=text("expires_at IS NOT NULL")),
    Index("ix_files_task_id", "task_id", postgresql_where=text("task_id IS NOT NULL")),
)
