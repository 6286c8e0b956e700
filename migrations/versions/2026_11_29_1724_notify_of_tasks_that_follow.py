"""Send the notice of tasks that follow the end of others.

Postgres left out the part of `taskmill_insert_tasks` that sends it, because its result was not used. The relay then found the
task only when it looked by itself, up to a second later.
"""

from __future__ import annotations

from alembic import op

from shared.queries.database_functions import define_functions, restore_functions

revision = "0025"
down_revision = "0024"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for statement in define_functions(revision, "taskmill_insert_tasks"):
        op.execute(statement)


def downgrade() -> None:
    for statement in restore_functions(revision, "taskmill_insert_tasks"):
        op.execute(statement)
