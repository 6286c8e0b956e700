"""Send batches, schedules, workflows and tasks in webhooks as their routes show them.

`failure_details` has what SQL cannot compute of a schedule. The older beat, which may still run, leaves it empty: its webhooks
then have neither the rule in plain words nor the next times.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from shared.queries.database_functions import define_functions, restore_functions

revision = "0021"
down_revision = "0020"
branch_labels = None
depends_on = None

FUNCTIONS = (
    "taskmill_task_document",
    "taskmill_batch_document",
    "taskmill_schedule_document",
    "taskmill_workflow_document",
)


def upgrade() -> None:
    op.add_column("schedules", sa.Column("failure_details", postgresql.JSONB(), nullable=True))
    for statement in define_functions(revision, *FUNCTIONS):
        op.execute(statement)


def downgrade() -> None:
    for statement in restore_functions(revision, *FUNCTIONS):
        op.execute(statement)
    op.drop_column("schedules", "failure_details")
