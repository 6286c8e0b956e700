"""Add the limits that submissions name for a key (`concurrency` and `rate`), and the weights of organizations.

The older code, which may still run, submits tasks without such limits. A relay of the older code publishes tasks without
regard to limits and weights: replace relays before the first use.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from shared.queries.database_functions import define_functions, restore_functions

revision = "0026"
down_revision = "0025"
branch_labels = None
depends_on = None

FUNCTIONS = (
    "taskmill_insert_tasks",
    "taskmill_task_document",
    "taskmill_schedule_document",
    "taskmill_note_limited_move",
    "taskmill_apply_weight",
    "taskmill_apply_running_limit",
)

TRIGGERS = (
    """
CREATE TRIGGER tasks_note_limited_move AFTER UPDATE OF status ON tasks FOR EACH ROW
WHEN (new.key_limits IS NOT NULL AND old.status IS DISTINCT FROM new.status)
EXECUTE FUNCTION taskmill_note_limited_move()
""",
    """
CREATE TRIGGER organizations_weight AFTER UPDATE OF weight ON organizations FOR EACH ROW
WHEN (old.weight IS DISTINCT FROM new.weight) EXECUTE FUNCTION taskmill_apply_weight()
""",
    """
CREATE TRIGGER limits_running AFTER INSERT OR UPDATE OF amount OR DELETE ON limits FOR EACH ROW
EXECUTE FUNCTION taskmill_apply_running_limit()
""",
)
RUNNING = sa.text("name IN ('running', 'running_by_queue', 'running_by_kind')")


def upgrade() -> None:
    op.add_column("organizations", sa.Column("weight", sa.SmallInteger(), server_default="1", nullable=False))
    op.create_check_constraint(op.f("ck_organizations_weight"), "organizations", "weight BETWEEN 1 AND 100")
    op.add_column("tasks", sa.Column("key_limits", postgresql.JSONB(), nullable=True))
    op.add_column("tasks", sa.Column("blocked_at", sa.DateTime(timezone=True), nullable=True))
    op.create_table(
        "organization_turns",
        sa.Column("organization_id", sa.Uuid(), nullable=False),
        sa.Column("publications", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("organization_id", name=op.f("pk_organization_turns")),
    )
    op.create_table(
        "rate_starts",
        sa.Column("organization_id", sa.Uuid(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("task_id", sa.Uuid(), nullable=False),
        sa.Column("attempt_claim", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("task_id", "attempt_claim", name=op.f("pk_rate_starts")),
    )
    op.create_index("ix_rate_starts_key", "rate_starts", ["organization_id", "key", "at"])
    op.create_index("ix_rate_starts_at", "rate_starts", ["at"])
    op.create_index("ix_limits_running", "limits", ["scope", "subject_id", "name", "target"], postgresql_where=RUNNING)
    for statement in (*define_functions(revision, *FUNCTIONS), *TRIGGERS):
        op.execute(statement)


def downgrade() -> None:
    op.execute("DROP TRIGGER limits_running ON limits")
    op.execute("DROP TRIGGER organizations_weight ON organizations")
    op.execute("DROP TRIGGER tasks_note_limited_move ON tasks")
    for statement in restore_functions(revision, *FUNCTIONS):
        op.execute(statement)
    op.drop_index("ix_limits_running", table_name="limits")
    op.drop_table("rate_starts")
    op.drop_table("organization_turns")
    op.drop_column("tasks", "blocked_at")
    op.drop_column("tasks", "key_limits")
    op.drop_constraint(op.f("ck_organizations_weight"), "organizations")
    op.drop_column("organizations", "weight")
