"""Index tasks by metadata, by the type of their error, and by the task or schedule that they come from.

Each index is partial, so that a task without such a value costs nothing, and each is made without a lock that writers wait
for, since the table may be large and the older code still runs.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

INDEXES: dict[str, tuple[str, list[Any], dict[str, Any]]] = {
    "ix_tasks_metadata": (
        "tasks",
        ["metadata"],
        {
            "postgresql_using": "gin",
            "postgresql_ops": {"metadata": "jsonb_path_ops"},
            "postgresql_where": sa.text("metadata <> '{}'"),
        },
    ),
    "ix_tasks_parent": ("tasks", ["parent_id", "id"], {"postgresql_where": sa.text("parent_id IS NOT NULL")}),
    "ix_tasks_schedule": ("tasks", ["schedule_id", "id"], {"postgresql_where": sa.text("schedule_id IS NOT NULL")}),
    "ix_tasks_rerun_of": ("tasks", ["rerun_of", "id"], {"postgresql_where": sa.text("rerun_of IS NOT NULL")}),
    "ix_tasks_unsuccessful": (
        "tasks",
        ["organization_id", "id"],
        {"postgresql_where": sa.text("status IN ('cancelled', 'expired', 'failed')")},
    ),
    "ix_task_payloads_error_type": (
        "task_payloads",
        [sa.text("(error ->> 'type')"), "task_id"],
        {"postgresql_where": sa.text("error IS NOT NULL")},
    ),
}


def upgrade() -> None:
    with op.get_context().autocommit_block():
        for name, (table, columns, options) in INDEXES.items():
            # An interrupted run of this migration leaves an index that is not valid.
            op.drop_index(name, table_name=table, postgresql_concurrently=True, if_exists=True)
            op.create_index(name, table, columns, postgresql_concurrently=True, **options)


def downgrade() -> None:
    for name, (table, _, _) in INDEXES.items():
        op.drop_index(name, table_name=table)
