"""Index tasks by the keys whose limits they name, and leave blocked tasks out of the index of due ones.

All steps are done without a lock that writers wait for, since the table may be large and the older code still runs. The
older relay sorts the due tasks of a queue from then on, until it is replaced.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0027"
down_revision = "0026"
branch_labels = None
depends_on = None

BY_PRIORITY: tuple[Any, ...] = (sa.literal_column("priority DESC"), "id")
CONCURRENCY_KEY = "key_limits -> 'concurrency' ->> 'key'"
RATE_KEY = "key_limits -> 'rate' ->> 'key'"
INDEXES: dict[str, tuple[list[Any], str]] = {
    "ix_tasks_publishable": (
        ["queue", "kind", "owner_id", *BY_PRIORITY],
        "status = 'queued' AND rung_at IS NULL AND blocked_at IS NULL",
    ),
    "ix_tasks_blocked": (
        [
            "organization_id",
            sa.literal_column(f"coalesce({CONCURRENCY_KEY}, '')"),
            sa.literal_column(f"coalesce({RATE_KEY}, '')"),
            *("queue", "kind", "owner_id", *BY_PRIORITY),
        ],
        "status = 'queued' AND blocked_at IS NOT NULL",
    ),
    "ix_tasks_concurrency_key": (
        [
            "organization_id",
            sa.literal_column(f"({CONCURRENCY_KEY})"),
            sa.literal_column("((rung_at IS NULL AND claim IS NULL)::int)"),
        ],
        "key_limits -> 'concurrency' IS NOT NULL AND status IN ('queued', 'running') AND blocked_at IS NULL",
    ),
    "ix_tasks_rate_key": (
        [
            "organization_id",
            sa.literal_column(f"({RATE_KEY})"),
            sa.literal_column("((rung_at IS NULL AND claim IS NULL)::int)"),
        ],
        "key_limits -> 'rate' IS NOT NULL AND status = 'queued' AND blocked_at IS NULL",
    ),
}


def upgrade() -> None:
    with op.get_context().autocommit_block():
        for name, (columns, condition) in INDEXES.items():
            # An interrupted run of this migration leaves an index that is not valid.
            op.drop_index(name, table_name="tasks", postgresql_concurrently=True, if_exists=True)
            op.create_index(name, "tasks", columns, postgresql_where=sa.text(condition), postgresql_concurrently=True)
        op.drop_index("ix_tasks_due_by_kind", table_name="tasks", postgresql_concurrently=True, if_exists=True)


def downgrade() -> None:
    op.create_index(
        "ix_tasks_due_by_kind",
        "tasks",
        ["queue", "kind", "owner_id", *BY_PRIORITY],
        postgresql_where=sa.text("status = 'queued' AND rung_at IS NULL"),
    )
    for name in INDEXES:
        op.drop_index(name, table_name="tasks")
