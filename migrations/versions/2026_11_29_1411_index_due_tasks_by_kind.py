"""Index due tasks by kind and caller, in the place of the index by caller, so that paused kinds can be passed over.

Both steps are done without a lock that writers wait for, since the table may be large and the older code still runs. The
older relay sorts the due tasks of a queue from then on, until it is replaced.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

DUE = sa.text("status = 'queued' AND rung_at IS NULL")


def upgrade() -> None:
    with op.get_context().autocommit_block():
        # An interrupted run of this migration leaves an index that is not valid.
        op.drop_index("ix_tasks_due_by_kind", table_name="tasks", postgresql_concurrently=True, if_exists=True)
        op.create_index(
            "ix_tasks_due_by_kind",
            "tasks",
            ["queue", "kind", "owner_id", sa.literal_column("priority DESC"), "id"],
            postgresql_where=DUE,
            postgresql_concurrently=True,
        )
        op.drop_index("ix_tasks_due", table_name="tasks", postgresql_concurrently=True, if_exists=True)


def downgrade() -> None:
    op.create_index(
        "ix_tasks_due", "tasks", ["queue", "owner_id", sa.literal_column("priority DESC"), "id"], postgresql_where=DUE
    )
    op.drop_index("ix_tasks_due_by_kind", table_name="tasks")
