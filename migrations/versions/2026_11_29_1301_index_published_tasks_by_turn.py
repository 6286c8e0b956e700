"""Index published tasks by turn, in the place of the index by the time of publication.

Both steps are done without a lock that writers wait for, since the table may be large and the older code still runs.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

PUBLISHED = sa.text("status = 'queued' AND rung_at IS NOT NULL")


def upgrade() -> None:
    with op.get_context().autocommit_block():
        # An interrupted run of this migration leaves an index that is not valid.
        op.drop_index("ix_tasks_published", table_name="tasks", postgresql_concurrently=True, if_exists=True)
        op.create_index(
            "ix_tasks_published",
            "tasks",
            ["queue", sa.literal_column("turn NULLS FIRST"), "id"],
            postgresql_where=PUBLISHED,
            postgresql_concurrently=True,
        )
        op.drop_index("ix_tasks_rung", table_name="tasks", postgresql_concurrently=True, if_exists=True)


def downgrade() -> None:
    op.create_index("ix_tasks_rung", "tasks", ["queue", "rung_at"], postgresql_where=PUBLISHED)
    op.drop_index("ix_tasks_published", table_name="tasks")
