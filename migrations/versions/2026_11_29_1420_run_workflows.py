"""Add workflows: tasks that are steps, each of which starts when the steps before it have ended.

`taskmill_advance_workflow` moves one workflow on, in the transaction that ends one of its tasks. It locks the workflow's row
first, so that of two transactions that end the last two steps before another one, the second sees both ends and starts it.
`taskmill_reopen_workflow`, a trigger, does the opposite when a caller retries a step.

The older code, which may still run, leaves steps that wait alone: they have no `run_at`.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from shared.queries.database_functions import define_functions, restore_functions

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

OLD_MOVES = (
    "cancelled>queued",
    "expired>queued",
    "failed>queued",
    "queued>cancelled",
    "queued>expired",
    "queued>running",
    "retrying>cancelled",
    "retrying>expired",
    "retrying>queued",
    "running>cancelled",
    "running>failed",
    "running>queued",
    "running>retrying",
    "running>succeeded",
    "scheduled>cancelled",
    "scheduled>expired",
    "scheduled>queued",
)
MOVES = (*OLD_MOVES, "cancelled>scheduled", "scheduled>failed")


def move_trigger(moves: tuple[str, ...]) -> str:
    return f"""
CREATE OR REPLACE TRIGGER tasks_move AFTER UPDATE OF status ON tasks FOR EACH ROW
WHEN (old.status IS DISTINCT FROM new.status
      AND (old.status || '>' || new.status) <> ALL (ARRAY[{", ".join(f"'{move}'" for move in moves)}]))
EXECUTE FUNCTION taskmill_refuse('no such move')
"""


FUNCTIONS = (
    "taskmill_insert_tasks",
    "taskmill_find_step_value",
    "taskmill_resolve_params",
    "taskmill_end_unstarted_step",
    "taskmill_start_step",
    "taskmill_lets_go_on",
    "taskmill_advance_workflow",
    "taskmill_advance_workflows",
    "taskmill_reopen_workflow",
    "taskmill_follow_ends",
    "taskmill_note_end",
)

REOPEN_TRIGGER = """
CREATE TRIGGER tasks_reopen_workflow AFTER UPDATE OF finished_at ON tasks FOR EACH ROW
WHEN (old.finished_at IS NOT NULL AND new.finished_at IS NULL AND new.workflow_id IS NOT NULL AND new.status = 'queued')
EXECUTE FUNCTION taskmill_reopen_workflow()
"""

NOTE_END_TRIGGER = """
CREATE OR REPLACE TRIGGER tasks_note_end AFTER UPDATE OF finished_at ON tasks FOR EACH ROW
WHEN (old.finished_at IS NULL AND new.finished_at IS NOT NULL AND (new.workflow_id IS NOT NULL OR new.batch_id IS NOT NULL))
EXECUTE FUNCTION taskmill_note_end()
"""

OLD_NOTE_END_TRIGGER = """
CREATE OR REPLACE TRIGGER tasks_note_end AFTER UPDATE OF finished_at ON tasks FOR EACH ROW
WHEN (old.finished_at IS NULL AND new.finished_at IS NOT NULL AND new.batch_id IS NOT NULL)
EXECUTE FUNCTION taskmill_note_end()
"""


def upgrade() -> None:
    op.add_column("tasks", sa.Column("workflow_id", sa.Uuid(), nullable=True))
    op.add_column("tasks", sa.Column("workflow_step", sa.Text(), nullable=True))
    op.drop_constraint(op.f("ck_tasks_scheduled_for_a_time"), "tasks")
    # The next migration validates it: until then, only new rows are checked.
    op.execute(
        "ALTER TABLE tasks ADD CONSTRAINT ck_tasks_scheduled_for_a_time "
        "CHECK (status <> 'scheduled' OR run_at IS NOT NULL OR workflow_id IS NOT NULL) NOT VALID"
    )
    op.create_table(
        "workflows",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("organization_id", sa.Uuid(), nullable=False),
        sa.Column("owner_id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.Text(), nullable=True),
        sa.Column("status", sa.Text(), server_default="running", nullable=False),
        sa.Column("schedule_id", sa.Uuid(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("cancel_requested_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "status IN ('running', 'succeeded', 'failed', 'cancelled')", name=op.f("ck_workflows_known_status")
        ),
        sa.CheckConstraint("(status = 'running') = (finished_at IS NULL)", name=op.f("ck_workflows_finished_iff_done")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_workflows")),
    )
    op.create_index("ix_workflows_organization", "workflows", ["organization_id", sa.literal_column("id DESC")])
    op.create_table(
        "workflow_steps",
        sa.Column("workflow_id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("place", sa.SmallInteger(), nullable=False),
        sa.Column("position", sa.SmallInteger(), nullable=False),
        sa.Column("after", sa.ARRAY(sa.Text()), nullable=False),
        sa.Column("on_failure", sa.Text(), server_default="cancel", nullable=False),
        sa.Column("submission", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("refs", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("for_each", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("task_id", sa.Uuid(), nullable=True),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("upstream_failed", sa.Boolean(), server_default="false", nullable=False),
        sa.Column("error", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "status IN ('waiting', 'running', 'succeeded', 'failed', 'cancelled', 'expired')",
            name=op.f("ck_workflow_steps_known_status"),
        ),
        sa.CheckConstraint("on_failure IN ('cancel', 'continue')", name=op.f("ck_workflow_steps_known_on_failure")),
        sa.CheckConstraint(
            "(for_each IS NULL) = (task_id IS NOT NULL)", name=op.f("ck_workflow_steps_one_task_or_for_each")
        ),
        sa.ForeignKeyConstraint(
            ["workflow_id"], ["workflows.id"], name=op.f("fk_workflow_steps_workflow_id_workflows"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("workflow_id", "name", name=op.f("pk_workflow_steps")),
        sa.UniqueConstraint("workflow_id", "place", name=op.f("uq_workflow_steps_workflow_id_place")),
    )
    op.drop_constraint(op.f("ck_tombstones_known_subject"), "tombstones")
    op.create_check_constraint(
        op.f("ck_tombstones_known_subject"), "tombstones", "subject IN ('task', 'file', 'workflow')"
    )
    for statement in (
        move_trigger(MOVES),
        *define_functions(revision, *FUNCTIONS),
        REOPEN_TRIGGER,
        NOTE_END_TRIGGER,
    ):
        op.execute(statement)


def downgrade() -> None:
    for statement in (
        "DROP TRIGGER tasks_reopen_workflow ON tasks",
        OLD_NOTE_END_TRIGGER,
        move_trigger(OLD_MOVES),
        *restore_functions(revision, *FUNCTIONS),
    ):
        op.execute(statement)
    op.execute("DELETE FROM tombstones WHERE subject = 'workflow'")
    op.drop_constraint(op.f("ck_tombstones_known_subject"), "tombstones")
    op.create_check_constraint(op.f("ck_tombstones_known_subject"), "tombstones", "subject IN ('task', 'file')")
    op.drop_table("workflow_steps")
    op.drop_table("workflows")
    op.drop_constraint(op.f("ck_tasks_scheduled_for_a_time"), "tasks")
    # A step that waits could never start.
    op.execute(
        "UPDATE tasks SET status = 'cancelled', finished_at = now(), purge_at = now(), version = version + 1 "
        "WHERE status = 'scheduled' AND run_at IS NULL"
    )
    op.create_check_constraint(
        op.f("ck_tasks_scheduled_for_a_time"), "tasks", "status <> 'scheduled' OR run_at IS NOT NULL"
    )
    op.drop_column("tasks", "workflow_step")
    op.drop_column("tasks", "workflow_id")
