"""Count new tasks with one statement, and recipients and quotas only where there are any."""

from __future__ import annotations

from alembic import op

from shared.queries.database_functions import define_functions, restore_functions

revision = "0033"
down_revision = "0032"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for statement in define_functions(revision, "taskmill_count_tasks"):
        op.execute(statement)


def downgrade() -> None:
    for statement in restore_functions(revision, "taskmill_count_tasks"):
        op.execute(statement)
