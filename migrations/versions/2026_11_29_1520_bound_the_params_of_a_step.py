"""Bound the params of the tasks of one step, and fail a step that cannot start for any reason of its values.

An error here would keep the task before the step from ending.
"""

from __future__ import annotations

from alembic import op

from shared.queries.database_functions import define_functions, restore_functions

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for statement in define_functions(revision, "taskmill_start_step"):
        op.execute(statement)


def downgrade() -> None:
    for statement in restore_functions(revision, "taskmill_start_step"):
        op.execute(statement)
