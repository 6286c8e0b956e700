"""Index failed, cancelled and expired tasks by their status, so that the few of a rare one are found among many others.

It takes the place of an index without the status, and serves what that one did. Both are made and dropped without a lock that
writers wait for, since the table may be large and the older code still runs.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0029"
down_revision = "0028"
branch_labels = None
depends_on = None

UNSUCCESSFUL = sa.text("status IN ('cancelled', 'expired', 'failed')")
BY_STATUS = "ix_tasks_unsuccessful_by_status"
BY_ID = "ix_tasks_unsuccessful"


def upgrade() -> None:
    _replace(BY_ID, BY_STATUS, ["organization_id", "status", "id"])


def downgrade() -> None:
    _replace(BY_STATUS, BY_ID, ["organization_id", "id"])


def _replace(old: str, new: str, columns: list[str]) -> None:
    with op.get_context().autocommit_block():
        # An interrupted run of this migration leaves an index that is not valid.
        op.drop_index(new, table_name="tasks", postgresql_concurrently=True, if_exists=True)
        op.create_index(new, "tasks", columns, postgresql_concurrently=True, postgresql_where=UNSUCCESSFUL)
        op.drop_index(old, table_name="tasks", postgresql_concurrently=True, if_exists=True)
