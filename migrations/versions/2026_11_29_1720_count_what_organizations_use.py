"""Count tasks, emails, recipients and stored bytes by organization and owner, and refuse what exceeds a quota.

Triggers count, so that tasks which the older code inserts are counted too. The counts begin with the day of this migration.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from shared.queries.database_functions import define_functions, restore_functions

revision = "0023"
down_revision = "0022"
branch_labels = None
depends_on = None

FUNCTIONS = (
    "taskmill_list_quotas",
    "taskmill_count_live",
    "taskmill_used",
    "taskmill_warn_of_quota",
    "taskmill_enforce_quotas",
    "taskmill_count_tasks",
    "taskmill_count_files",
    "taskmill_count_return",
    "taskmill_start_step",
    "taskmill_submit_notice",
    "taskmill_finish_batches",
)

TRIGGERS = (
    """
CREATE TRIGGER tasks_count AFTER INSERT ON tasks REFERENCING NEW TABLE AS inserted FOR EACH STATEMENT
EXECUTE FUNCTION taskmill_count_tasks()
""",
    """
CREATE TRIGGER tasks_count_return AFTER UPDATE OF finished_at ON tasks FOR EACH ROW
WHEN (old.finished_at IS NOT NULL AND new.finished_at IS NULL)
EXECUTE FUNCTION taskmill_count_return()
""",
    """
CREATE TRIGGER files_count_inserted AFTER INSERT ON files REFERENCING NEW TABLE AS changed FOR EACH STATEMENT
EXECUTE FUNCTION taskmill_count_files('1')
""",
    """
CREATE TRIGGER files_count_deleted AFTER DELETE ON files REFERENCING OLD TABLE AS changed FOR EACH STATEMENT
EXECUTE FUNCTION taskmill_count_files('-1')
""",
)
COUNT_STORED_FILES = """
INSERT INTO stored_bytes (organization_id, owner_id, writer, bytes, files)
SELECT organization_id, owner_id, 0, sum(size), count(*) FROM files GROUP BY organization_id, owner_id
"""

# The id of a task begins with the time of its submission by the clock of the API, which may be a little wrong.
COUNT_TASKS_OF_TODAY = """
WITH today AS MATERIALIZED (
    SELECT date_trunc('day', now() AT TIME ZONE 'UTC') AT TIME ZONE 'UTC' AS start
)
INSERT INTO usage_by_day (organization_id, day, owner_id, writer, tasks, emails, recipients)
SELECT task.organization_id, (task.created_at AT TIME ZONE 'UTC')::date, task.owner_id, 0, count(*),
    count(*) FILTER (WHERE task.kind = 'email.send'), 0
FROM today, tasks AS task
WHERE task.id >= (lpad(to_hex((extract(epoch FROM today.start) * 1000)::bigint - 3600000), 12, '0') || repeat('0', 20))::uuid
    AND task.created_at >= today.start AND task.organization_id <> '00000000-0000-7000-8000-000000000000'
GROUP BY 1, 2, 3
"""


def upgrade() -> None:
    op.create_table(
        "usage_by_day",
        sa.Column("organization_id", sa.Uuid(), nullable=False),
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("owner_id", sa.Uuid(), nullable=False),
        sa.Column("writer", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("tasks", sa.BigInteger(), nullable=False),
        sa.Column("emails", sa.BigInteger(), nullable=False),
        sa.Column("recipients", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("organization_id", "day", "owner_id", "writer", name=op.f("pk_usage_by_day")),
        postgresql_with={"fillfactor": "50"},
    )
    op.create_table(
        "stored_bytes",
        sa.Column("organization_id", sa.Uuid(), nullable=False),
        sa.Column("owner_id", sa.Uuid(), nullable=False),
        sa.Column("writer", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("files", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("organization_id", "owner_id", "writer", name=op.f("pk_stored_bytes")),
        postgresql_with={"fillfactor": "50"},
    )
    op.create_table(
        "live_task_bounds",
        sa.Column("subject_id", sa.Uuid(), nullable=False),
        sa.Column("scope", sa.Text(), nullable=False),
        sa.Column("bound", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("scope IN ('organization', 'caller')", name=op.f("ck_live_task_bounds_known_scope")),
        sa.PrimaryKeyConstraint("subject_id", "scope", name=op.f("pk_live_task_bounds")),
    )
    op.create_table(
        "quota_warnings",
        sa.Column("subject_id", sa.Uuid(), nullable=False),
        sa.Column("scope", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("day", sa.Date(), nullable=False),
        sa.CheckConstraint("scope IN ('organization', 'caller')", name=op.f("ck_quota_warnings_known_scope")),
        sa.PrimaryKeyConstraint("subject_id", "scope", "name", "day", name=op.f("pk_quota_warnings")),
    )
    # A new trigger locks its table against inserts until all is committed, so what exists is counted once.
    for statement in (*define_functions(revision, *FUNCTIONS), *TRIGGERS, COUNT_STORED_FILES, COUNT_TASKS_OF_TODAY):
        op.execute(statement)


def downgrade() -> None:
    for trigger, table in (
        ("files_count_deleted", "files"),
        ("files_count_inserted", "files"),
        ("tasks_count_return", "tasks"),
        ("tasks_count", "tasks"),
    ):
        op.execute(f"DROP TRIGGER {trigger} ON {table}")
    for statement in restore_functions(revision, *FUNCTIONS):
        op.execute(statement)
    for table in ("quota_warnings", "live_task_bounds", "stored_bytes", "usage_by_day"):
        op.drop_table(table)
