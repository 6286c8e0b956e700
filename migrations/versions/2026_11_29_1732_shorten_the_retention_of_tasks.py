"""Keep new tasks for no longer than their organization and caller may keep them."""

from __future__ import annotations

from alembic import op

from shared.queries.database_functions import define_functions, restore_functions

revision = "0028"
down_revision = "0027"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for statement in define_functions(revision, "taskmill_count_tasks"):
        op.execute(statement)


def downgrade() -> None:
    for statement in restore_functions(revision, "taskmill_count_tasks"):
        op.execute(statement)
