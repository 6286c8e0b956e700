"""Add turns of published tasks, and drop the check on the names of queues, which the code checks.

The older code, which may still run, publishes tasks without a turn: they come first in the order.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("tasks", sa.Column("turn", sa.Double(), nullable=True))
    op.create_table(
        "queue_turns",
        sa.Column("queue", sa.Text(), nullable=False),
        sa.Column("publications", sa.BigInteger(), nullable=False),
        sa.Column("last_turn", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("queue", name=op.f("pk_queue_turns")),
    )
    op.create_table(
        "caller_turns",
        sa.Column("queue", sa.Text(), nullable=False),
        sa.Column("owner_id", sa.Uuid(), nullable=False),
        sa.Column("last_turn", sa.Double(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("queue", "owner_id", name=op.f("pk_caller_turns")),
    )
    op.drop_constraint(op.f("ck_tasks_known_queue"), "tasks")


def downgrade() -> None:
    op.create_check_constraint(
        op.f("ck_tasks_known_queue"), "tasks", "queue IN ('email', 'files', 'maintenance', 'reports')"
    )
    op.drop_table("caller_turns")
    op.drop_table("queue_turns")
    op.drop_column("tasks", "turn")
