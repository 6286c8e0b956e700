"""Add a backoff of its own and the task that it reruns to each task, and the progress of actions on many tasks.

The older code, which may still run, submits tasks without either.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


# `taskmill_insert_tasks` inserts the tasks that follow others: a backoff is one more of the columns that it names.
REPLACE_INSERT_TASKS = """
DO $do$ BEGIN
    EXECUTE replace(replace(replace(pg_get_functiondef('taskmill_insert_tasks(jsonb)'::regprocedure),
        'params jsonb, files jsonb', 'params jsonb, files jsonb, backoff jsonb'),
        'tags, metadata)', 'tags, metadata, backoff)'),
        'coalesce(metadata, ''{}'')', 'coalesce(metadata, ''{}''), backoff');
END $do$
"""
RESTORE_INSERT_TASKS = """
DO $do$ BEGIN
    EXECUTE replace(replace(pg_get_functiondef('taskmill_insert_tasks(jsonb)'::regprocedure), ', backoff jsonb', ''),
        ', backoff', '');
END $do$
"""


def upgrade() -> None:
    op.add_column("tasks", sa.Column("backoff", postgresql.JSONB(), nullable=True))
    op.add_column("tasks", sa.Column("rerun_of", sa.Uuid(), nullable=True))
    op.execute(REPLACE_INSERT_TASKS)
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
    op.execute(RESTORE_INSERT_TASKS)
    op.drop_table("bulk_actions")
    op.drop_column("tasks", "rerun_of")
    op.drop_column("tasks", "backoff")
