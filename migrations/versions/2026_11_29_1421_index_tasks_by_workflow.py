"""Index tasks by workflow, and validate the constraint on scheduled tasks, without a lock that writers wait for."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.get_context().autocommit_block():
        # An interrupted run of this migration leaves an index that is not valid.
        op.drop_index("ix_tasks_workflow", table_name="tasks", postgresql_concurrently=True, if_exists=True)
        op.create_index(
            "ix_tasks_workflow",
            "tasks",
            ["workflow_id", "id"],
            postgresql_where=sa.text("workflow_id IS NOT NULL"),
            postgresql_concurrently=True,
        )
        op.execute("ALTER TABLE tasks VALIDATE CONSTRAINT ck_tasks_scheduled_for_a_time")


def downgrade() -> None:
    op.drop_index("ix_tasks_workflow", table_name="tasks")
