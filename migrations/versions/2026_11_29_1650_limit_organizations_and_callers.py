"""Add the limits of organizations and callers. There is no row at first, which means no limit."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "limits",
        sa.Column("subject_id", sa.Uuid(), nullable=False),
        sa.Column("scope", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("target", sa.Text(), server_default="", nullable=False),
        sa.Column("amount", sa.BigInteger(), nullable=True),
        sa.Column("allowed", sa.ARRAY(sa.Text()), nullable=True),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("scope IN ('organization', 'caller')", name=op.f("ck_limits_known_scope")),
        sa.CheckConstraint(
            "name IN ('tasks_per_day', 'live_tasks', 'running', 'running_by_queue', 'running_by_kind', 'stored_bytes', "
            "'upload_bytes', 'retention_seconds', 'report_rows', 'emails_per_day', 'recipients_per_day', 'senders', "
            "'requests_per_minute')",
            name=op.f("ck_limits_known_name"),
        ),
        sa.CheckConstraint(
            "(target <> '') = (name IN ('running_by_queue', 'running_by_kind', 'requests_per_minute'))",
            name=op.f("ck_limits_target"),
        ),
        sa.CheckConstraint("amount >= 0", name=op.f("ck_limits_amount")),
        sa.CheckConstraint(
            "CASE WHEN name = 'senders' THEN amount IS NULL ELSE allowed IS NULL END",
            name=op.f("ck_limits_amount_or_allowed"),
        ),
        sa.PrimaryKeyConstraint("subject_id", "scope", "name", "target", name=op.f("pk_limits")),
    )


def downgrade() -> None:
    op.drop_table("limits")
