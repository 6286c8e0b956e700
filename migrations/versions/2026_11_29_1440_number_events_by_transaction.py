"""Store with each event the transaction that wrote it, for streams of the events of many tasks.

Events that are stored already keep no transaction, which means that they are older than every stream. The older code, which
may still run, gets the default. The index is built without a lock that writers wait for.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from shared.tables.base import TransactionId

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # Two steps, because a new column with this default would rewrite the table.
    op.add_column("task_events", sa.Column("transaction_id", TransactionId(), nullable=True))
    op.alter_column("task_events", "transaction_id", server_default=sa.text("pg_current_xact_id()"))
    with op.get_context().autocommit_block():
        # An interrupted run of this migration leaves an index that is not valid.
        op.drop_index("ix_task_events_transaction", "task_events", postgresql_concurrently=True, if_exists=True)
        op.create_index(
            "ix_task_events_transaction",
            "task_events",
            ["transaction_id"],
            postgresql_where=sa.text("transaction_id IS NOT NULL"),
            postgresql_concurrently=True,
        )


def downgrade() -> None:
    op.drop_index("ix_task_events_transaction", table_name="task_events")
    op.drop_column("task_events", "transaction_id")
