"""Add workflows to schedules, and link a step only to files of its own organization."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from shared.queries.database_functions import define_functions, restore_functions

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("schedules", sa.Column("workflow", postgresql.JSONB(astext_type=sa.Text()), nullable=True))
    op.create_index(
        "ix_workflows_schedule",
        "workflows",
        ["schedule_id"],
        postgresql_where=sa.text("schedule_id IS NOT NULL AND finished_at IS NULL"),
    )
    for statement in define_functions(revision, "taskmill_resolve_params"):
        op.execute(statement)


def downgrade() -> None:
    for statement in restore_functions(revision, "taskmill_resolve_params"):
        op.execute(statement)
    op.drop_index("ix_workflows_schedule", table_name="workflows")
    op.execute("DELETE FROM schedules WHERE workflow IS NOT NULL")
    op.drop_column("schedules", "workflow")
