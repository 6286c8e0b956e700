"""Mark tasks that something follows when they end, so that the end of any other task costs no look-up.

`tasks.has_follow_up` is set by triggers of the tables in which follow-ups are stored, so that no submission can forget it, and
the older code, which may still run, sets it too. Webhook endpoints may be created while a task runs, so they are no part of
it: each statement that ends tasks checks once whether there is any.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from shared.queries.database_functions import define_functions, restore_functions

revision = "0024"
down_revision = "0023"
branch_labels = None
depends_on = None

NEW_FUNCTIONS = ("taskmill_mark_followed_task", "taskmill_mark_followed_batch", "taskmill_note_endpoints")

TRIGGERS = (
    """
CREATE TRIGGER task_follow_ups_mark_task AFTER INSERT ON task_follow_ups FOR EACH ROW
EXECUTE FUNCTION taskmill_mark_followed_task()
""",
    """
CREATE TRIGGER batch_follow_ups_mark_tasks AFTER INSERT ON batch_follow_ups FOR EACH ROW
EXECUTE FUNCTION taskmill_mark_followed_batch()
""",
    """
CREATE TRIGGER tasks_note_endpoints BEFORE UPDATE OF finished_at ON tasks FOR EACH STATEMENT
EXECUTE FUNCTION taskmill_note_endpoints()
""",
)

# The fence refuses a change of a running task that does not name its claim.
MARK_LIVE_TASKS = """
UPDATE tasks SET has_follow_up = true, named_claim = CASE WHEN named_claim = claim THEN ~claim ELSE claim END
WHERE finished_at IS NULL AND has_follow_up IS NULL AND (
    id IN (SELECT follow_up.task_id FROM task_follow_ups AS follow_up)
    OR batch_id IN (SELECT batch.batch_id FROM batch_follow_ups AS batch WHERE batch.task_id IS NULL))
"""

NOTE_END_TRIGGER = """
CREATE OR REPLACE TRIGGER tasks_note_end AFTER UPDATE OF finished_at ON tasks FOR EACH ROW
WHEN (old.finished_at IS NULL AND new.finished_at IS NOT NULL
      AND (new.has_follow_up OR new.workflow_id IS NOT NULL OR (new.kind = 'webhooks.deliver' AND new.status <> 'succeeded')
           OR current_setting('taskmill.has_endpoints', true) = 'true'))
EXECUTE FUNCTION taskmill_note_end()
"""

OLD_NOTE_END_TRIGGER = """
CREATE OR REPLACE TRIGGER tasks_note_end AFTER UPDATE OF finished_at ON tasks FOR EACH ROW
WHEN (old.finished_at IS NULL AND new.finished_at IS NOT NULL)
EXECUTE FUNCTION taskmill_note_end()
"""


def upgrade() -> None:
    op.add_column("tasks", sa.Column("has_follow_up", sa.Boolean(), nullable=True))
    for statement in (*define_functions(revision, *NEW_FUNCTIONS), *TRIGGERS):
        op.execute(statement)
    with op.get_context().autocommit_block():
        # Submissions mark their tasks from here on. No lock of the table is held while the earlier ones are marked.
        op.execute(MARK_LIVE_TASKS)
    for statement in (*define_functions(revision, "taskmill_note_end"), NOTE_END_TRIGGER):
        op.execute(statement)


def downgrade() -> None:
    for statement in (OLD_NOTE_END_TRIGGER, *restore_functions(revision, "taskmill_note_end")):
        op.execute(statement)
    op.execute("DROP TRIGGER tasks_note_endpoints ON tasks")
    op.execute("DROP TRIGGER batch_follow_ups_mark_tasks ON batch_follow_ups")
    op.execute("DROP TRIGGER task_follow_ups_mark_task ON task_follow_ups")
    for statement in restore_functions(revision, *NEW_FUNCTIONS):
        op.execute(statement)
    op.drop_column("tasks", "has_follow_up")
