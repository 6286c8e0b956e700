"""Write `failed at` in the emails about the ends of tasks, in the place of `is failed since`."""

from __future__ import annotations

from alembic import op

from shared.queries.database_functions import define_functions, restore_functions

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for statement in define_functions(revision, "taskmill_submit_notice"):
        op.execute(statement)


def downgrade() -> None:
    for statement in restore_functions(revision, "taskmill_submit_notice"):
        op.execute(statement)
