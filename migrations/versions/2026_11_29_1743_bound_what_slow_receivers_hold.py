"""Bound how many webhooks are sent to slow receivers at a time, and store the deliveries of one event by one statement.

- A receiver whose last try timed out or took two seconds or more is a row of `slow_receivers`. All of them together get four
  deliveries at a time, so that any number of receivers that hang leaves slots for the others.
- The functions lock in one order: receivers, slow receivers, deliveries, endpoints.

The older code, which may still run, does not ask `taskmill_has_room`, and so does not bound slow receivers.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from shared.queries.database_functions import define_functions, restore_functions

revision = "0031"
down_revision = "0030"
branch_labels = None
depends_on = None

FUNCTIONS = (
    "taskmill_receiver_bound",
    "taskmill_slow_room",
    "taskmill_has_room",
    "taskmill_note_try",
    "taskmill_start_slow",
    "taskmill_start_deliveries",
    "taskmill_start_delivery",
    "taskmill_start_waiting",
    "taskmill_submit_webhooks",
    "taskmill_submit_webhooks_of_ends",
)


def upgrade() -> None:
    op.create_table(
        "slow_receivers",
        sa.Column("receiver_id", sa.Uuid(), nullable=False),
        sa.Column("last_try_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("receiver_id", name=op.f("pk_slow_receivers")),
    )
    for statement in define_functions(revision, *FUNCTIONS):
        op.execute(statement)


def downgrade() -> None:
    for statement in restore_functions(revision, *FUNCTIONS):
        op.execute(statement)
    op.drop_table("slow_receivers")
