"""Bound the tasks of one workflow, and let the end of an older task that sent a delivery not end a later one.

- A step that starts inserts its tasks in the transaction that ends the step before it. Without a bound, 99 steps with 1,000 tasks
  each exceed the time of a statement, so that the step before them can never end. References that are the same for each
  element are resolved once for the same reason.
- A delivery that has ended may be sent again before the task that sent it has ended. `taskmill_abandon_delivery` then leaves
  it to its new task.
"""

from __future__ import annotations

from alembic import op

from shared.queries.database_functions import define_functions, restore_functions

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None

FUNCTIONS = ("taskmill_start_step", "taskmill_abandon_delivery")


def upgrade() -> None:
    for statement in define_functions(revision, *FUNCTIONS):
        op.execute(statement)


def downgrade() -> None:
    for statement in restore_functions(revision, *FUNCTIONS):
        op.execute(statement)
