"""Add schedules of callers: owners, cron rules, time zones, and the handling of missed and overlapping slots."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

PLATFORM_ID = "00000000-0000-7000-8000-000000000000"


def upgrade() -> None:
    for column in (
        sa.Column("organization_id", sa.Uuid(), server_default=PLATFORM_ID, nullable=False),
        sa.Column("owner_id", sa.Uuid(), server_default=PLATFORM_ID, nullable=False),
        sa.Column("options", postgresql.JSONB(astext_type=sa.Text()), server_default="{}", nullable=False),
        sa.Column("cron", sa.Text(), nullable=True),
        sa.Column("timezone", sa.Text(), server_default="UTC", nullable=False),
        sa.Column("starts_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("ends_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("jitter_seconds", sa.Integer(), server_default="0", nullable=False),
        sa.Column("missed", sa.Text(), server_default="run_once", nullable=False),
        sa.Column("overlap", sa.Text(), server_default="allow", nullable=False),
        sa.Column("next_at", sa.DateTime(timezone=True), server_default=sa.text("to_timestamp(0)"), nullable=True),
        sa.Column("planned_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("last_error", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("version", sa.Integer(), server_default="1", nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
    ):
        op.add_column("schedules", column)
    op.alter_column("schedules", "every_seconds", nullable=True)
    op.create_unique_constraint(op.f("uq_schedules_organization_id_name"), "schedules", ["organization_id", "name"])
    # The older version of beat needs this constraint at its start only, and is replaced in the same deploy.
    op.drop_constraint(op.f("uq_schedules_name"), "schedules")
    for name, condition in (
        ("cron_or_every", "num_nonnulls(cron, every_seconds) = 1"),
        ("known_missed", "missed IN ('skip', 'run_once', 'run_all')"),
        ("known_overlap", "overlap IN ('allow', 'skip')"),
        ("jitter_seconds", "jitter_seconds >= 0"),
    ):
        op.create_check_constraint(op.f(f"ck_schedules_{name}"), "schedules", condition)
    op.create_index(
        "ix_schedules_due", "schedules", ["next_at"], postgresql_where=sa.text("enabled AND next_at IS NOT NULL")
    )


def downgrade() -> None:
    op.execute(f"DELETE FROM schedules WHERE organization_id <> '{PLATFORM_ID}' OR every_seconds IS NULL")  # noqa: S608
    op.drop_index("ix_schedules_due", table_name="schedules")
    for name in ("jitter_seconds", "known_overlap", "known_missed", "cron_or_every"):
        op.drop_constraint(op.f(f"ck_schedules_{name}"), "schedules")
    op.create_unique_constraint(op.f("uq_schedules_name"), "schedules", ["name"])
    op.drop_constraint(op.f("uq_schedules_organization_id_name"), "schedules")
    op.alter_column("schedules", "every_seconds", nullable=False)
    for column in (
        *("updated_at", "version", "last_error", "planned_at", "next_at", "overlap", "missed", "jitter_seconds"),
        *("ends_at", "starts_at", "timezone", "cron", "options", "owner_id", "organization_id"),
    ):
        op.drop_column("schedules", column)
