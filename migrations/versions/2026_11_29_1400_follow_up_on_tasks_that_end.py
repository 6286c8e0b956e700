"""Follow up on tasks in the transaction that ends them, and submit the `on_finished` of a batch that way.

- `tasks_note_end`, a row trigger, notes the id of a task that ends, if something may follow.
- `tasks_follow_up`, a statement trigger, runs after all row triggers of the statement. It passes the noted ids to
  `taskmill_follow_ends`, which calls one function for each subject. A later migration adds a subject by replacing that
  function, and `taskmill_note_end` if other tasks must be noted.
- `taskmill_insert_tasks` inserts the tasks that follow.

A function for one subject locks what it decides about in the order of its ids: two statements that end several tasks
each would otherwise wait for each other.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from shared.queries.database_functions import define_functions, restore_functions

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

FUNCTIONS = (
    "taskmill_insert_tasks",
    "taskmill_finish_batches",
    "taskmill_follow_ends",
    "taskmill_note_end",
    "taskmill_follow_up",
)

NOTE_END_TRIGGER = """
CREATE TRIGGER tasks_note_end AFTER UPDATE OF finished_at ON tasks FOR EACH ROW
WHEN (old.finished_at IS NULL AND new.finished_at IS NOT NULL AND new.batch_id IS NOT NULL)
EXECUTE FUNCTION taskmill_note_end()
"""

FOLLOW_UP_TRIGGER = """
CREATE TRIGGER tasks_follow_up AFTER UPDATE OF finished_at ON tasks FOR EACH STATEMENT
EXECUTE FUNCTION taskmill_follow_up()
"""


def upgrade() -> None:
    op.create_table(
        "batch_follow_ups",
        sa.Column("batch_id", sa.Uuid(), nullable=False),
        sa.Column("on_finished", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("task_id", sa.Uuid(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("batch_id", name=op.f("pk_batch_follow_ups")),
    )
    for statement in (*define_functions(revision, *FUNCTIONS), NOTE_END_TRIGGER, FOLLOW_UP_TRIGGER):
        op.execute(statement)


def downgrade() -> None:
    op.execute("DROP TRIGGER tasks_follow_up ON tasks")
    op.execute("DROP TRIGGER tasks_note_end ON tasks")
    for statement in restore_functions(revision, *FUNCTIONS):
        op.execute(statement)
    op.drop_table("batch_follow_ups")
