"""Add a backoff of its own and the task that it reruns to each task, and the progress of actions on many tasks.

The older code, which may still run, submits tasks without either.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from shared.queries.database_functions import define_functions, restore_functions

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("tasks", sa.Column("backoff", postgresql.JSONB(), nullable=True))
    op.add_column("tasks", sa.Column("rerun_of", sa.Uuid(), nullable=True))
    for statement in define_functions(revision, "taskmill_insert_tasks"):
        op.execute(statement)
    op.create_table(
        "bulk_actions",
        sa.Column("task_id", sa.Uuid(), nullable=False),
        sa.Column("last_id", sa.Uuid(), nullable=True),
        sa.Column("changed", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("refused", postgresql.JSONB(), server_default="{}", nullable=False),
        sa.PrimaryKeyConstraint("task_id", name=op.f("pk_bulk_actions")),
        sa.CheckConstraint("changed >= 0", name=op.f("ck_bulk_actions_changed")),
    )


def downgrade() -> None:
    for statement in restore_functions(revision, "taskmill_insert_tasks"):
        op.execute(statement)
    op.drop_table("bulk_actions")
    op.drop_column("tasks", "rerun_of")
    op.drop_column("tasks", "backoff")
