"""Mask the secrets of schedules in webhooks about them."""

from __future__ import annotations

from alembic import op

from shared.queries.database_functions import define_functions, restore_functions

revision = "0030"
down_revision = "0029"
branch_labels = None
depends_on = None

FUNCTIONS = ("taskmill_mask_secrets", "taskmill_schedule_document")


def upgrade() -> None:
    for statement in define_functions(revision, *FUNCTIONS):
        op.execute(statement)


def downgrade() -> None:
    for statement in restore_functions(revision, *FUNCTIONS):
        op.execute(statement)
