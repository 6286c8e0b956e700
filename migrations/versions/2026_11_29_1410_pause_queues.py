"""Add pauses of queues and kinds, the recent activity of queues, and what a worker says of itself.

A worker of the older code writes no details, and a relay of the older code publishes tasks that are paused.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "pauses",
        sa.Column("target", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("since", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("caller_id", sa.Uuid(), nullable=False),
        sa.CheckConstraint("target IN ('queue', 'kind')", name=op.f("ck_pauses_known_target")),
        sa.PrimaryKeyConstraint("target", "name", name=op.f("pk_pauses")),
    )
    op.create_table(
        "queue_activity",
        sa.Column("queue", sa.Text(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("started", sa.Integer(), nullable=False),
        sa.Column("ended", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("queue", "at", name=op.f("pk_queue_activity")),
    )
    op.add_column(
        "signs_of_life",
        sa.Column("since", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
    )
    op.add_column("signs_of_life", sa.Column("details", postgresql.JSONB(), nullable=True))


def downgrade() -> None:
    op.drop_column("signs_of_life", "details")
    op.drop_column("signs_of_life", "since")
    op.drop_table("queue_activity")
    op.drop_table("pauses")
