"""Add webhooks: endpoints, deliveries with their tries, and what a submission asks for when its task ends.

Deliveries are stored, and the tasks that send them are submitted, in the transaction that ends a task:

- `taskmill_submit_webhooks` stores a delivery for each endpoint that an event matches. Other subjects call it too.
- `taskmill_start_delivery` submits the task that sends a delivery. The owner of that task is the receiver, so that receivers
  take turns in the queue.
- `taskmill_start_waiting` starts deliveries that wait because enough others are on their way to their receiver.

The older code, which may still run, ends tasks by the same triggers, and needs no new column.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from shared.queries.database_functions import define_functions, restore_functions

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None

FUNCTIONS = (
    "taskmill_insert_tasks",
    "taskmill_timestamp",
    "taskmill_task_document",
    "taskmill_batch_document",
    "taskmill_schedule_document",
    "taskmill_workflow_document",
    "taskmill_start_delivery",
    "taskmill_receiver_bound",
    "taskmill_count_sending",
    "taskmill_start_waiting",
    "taskmill_abandon_delivery",
    "taskmill_submit_webhooks",
    "taskmill_submit_notice",
    "taskmill_submit_webhooks_of_ends",
    "taskmill_note_workflow_end",
    "taskmill_note_schedule_failure",
    "taskmill_follow_ends",
    "taskmill_note_end",
)

NOTE_END_TRIGGER = """
CREATE OR REPLACE TRIGGER tasks_note_end AFTER UPDATE OF finished_at ON tasks FOR EACH ROW
WHEN (old.finished_at IS NULL AND new.finished_at IS NOT NULL)
EXECUTE FUNCTION taskmill_note_end()
"""

NOTE_WORKFLOW_END_TRIGGER = """
CREATE TRIGGER workflows_note_end AFTER UPDATE OF finished_at ON workflows FOR EACH ROW
WHEN (old.finished_at IS NULL AND new.finished_at IS NOT NULL)
EXECUTE FUNCTION taskmill_note_workflow_end()
"""

NOTE_SCHEDULE_FAILURE_TRIGGER = """
CREATE TRIGGER schedules_note_failure AFTER UPDATE OF last_error ON schedules FOR EACH ROW
WHEN (new.last_error IS NOT NULL AND new.next_at IS DISTINCT FROM old.next_at)
EXECUTE FUNCTION taskmill_note_schedule_failure()
"""

OLD_NOTE_END_TRIGGER = """
CREATE OR REPLACE TRIGGER tasks_note_end AFTER UPDATE OF finished_at ON tasks FOR EACH ROW
WHEN (old.finished_at IS NULL AND new.finished_at IS NOT NULL AND (new.workflow_id IS NOT NULL OR new.batch_id IS NOT NULL))
EXECUTE FUNCTION taskmill_note_end()
"""


def upgrade() -> None:
    op.create_table(
        "webhook_endpoints",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("organization_id", sa.Uuid(), nullable=False),
        sa.Column("owner_id", sa.Uuid(), nullable=False),
        sa.Column("url", sa.Text(), nullable=False),
        sa.Column("description", sa.Text(), server_default="", nullable=False),
        sa.Column("event_types", sa.ARRAY(sa.Text()), nullable=False),
        sa.Column("kinds", sa.ARRAY(sa.Text()), server_default="{}", nullable=False),
        sa.Column("tags", sa.ARRAY(sa.Text()), server_default="{}", nullable=False),
        sa.Column("enabled", sa.Boolean(), server_default="true", nullable=False),
        sa.Column("disabled_reason", sa.Text(), nullable=True),
        sa.Column("secret", sa.Text(), nullable=False),
        sa.Column("previous_secret", sa.Text(), nullable=True),
        sa.Column("previous_secret_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("failing_since", sa.DateTime(timezone=True), nullable=True),
        sa.Column("version", sa.Integer(), server_default="1", nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("cardinality(event_types) >= 1", name=op.f("ck_webhook_endpoints_has_event_types")),
        sa.CheckConstraint(
            "disabled_reason IN ('gone', 'failing')", name=op.f("ck_webhook_endpoints_known_disabled_reason")
        ),
        sa.CheckConstraint(
            "disabled_reason IS NULL OR NOT enabled", name=op.f("ck_webhook_endpoints_enabled_without_reason")
        ),
        sa.CheckConstraint(
            "(previous_secret IS NULL) = (previous_secret_until IS NULL)",
            name=op.f("ck_webhook_endpoints_previous_secret_has_an_end"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_webhook_endpoints")),
    )
    op.create_index(
        "ix_webhook_endpoints_organization", "webhook_endpoints", ["organization_id", sa.literal_column("id DESC")]
    )
    op.create_table(
        "webhook_secrets",
        sa.Column("organization_id", sa.Uuid(), nullable=False),
        sa.Column("secret", sa.Text(), nullable=False),
        sa.Column("previous_secret", sa.Text(), nullable=True),
        sa.Column("previous_secret_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint(
            "(previous_secret IS NULL) = (previous_secret_until IS NULL)",
            name=op.f("ck_webhook_secrets_previous_secret_has_an_end"),
        ),
        sa.PrimaryKeyConstraint("organization_id", name=op.f("pk_webhook_secrets")),
    )
    op.create_table(
        "webhook_deliveries",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("organization_id", sa.Uuid(), nullable=False),
        sa.Column("endpoint_id", sa.Uuid(), nullable=True),
        sa.Column("task_id", sa.Uuid(), nullable=True),
        sa.Column("event_type", sa.Text(), nullable=False),
        sa.Column("event_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("data", sa.JSON(), nullable=True),
        sa.Column("url", sa.Text(), nullable=True),
        sa.Column("secret", sa.Text(), nullable=True),
        sa.Column("receiver_id", sa.Uuid(), nullable=False),
        sa.Column("state", sa.Text(), server_default="pending", nullable=False),
        sa.Column("tries", sa.Integer(), server_default="0", nullable=False),
        sa.Column("next_try_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("give_up_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("send_task_id", sa.Uuid(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "state IN ('pending', 'waiting', 'sending', 'delivered', 'failed')",
            name=op.f("ck_webhook_deliveries_known_state"),
        ),
        sa.CheckConstraint(
            "(state IN ('delivered', 'failed')) = (finished_at IS NOT NULL)",
            name=op.f("ck_webhook_deliveries_finished_iff_done"),
        ),
        sa.CheckConstraint(
            "(endpoint_id IS NULL) = (url IS NOT NULL)", name=op.f("ck_webhook_deliveries_endpoint_or_url")
        ),
        sa.ForeignKeyConstraint(
            ["endpoint_id"],
            ["webhook_endpoints.id"],
            name=op.f("fk_webhook_deliveries_endpoint_id_webhook_endpoints"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_webhook_deliveries")),
    )
    op.create_index(
        "ix_webhook_deliveries_organization", "webhook_deliveries", ["organization_id", sa.literal_column("id DESC")]
    )
    op.create_index(
        "ix_webhook_deliveries_endpoint", "webhook_deliveries", ["endpoint_id", sa.literal_column("id DESC")]
    )
    op.create_index(
        "ix_webhook_deliveries_task", "webhook_deliveries", ["task_id"], postgresql_where=sa.text("task_id IS NOT NULL")
    )
    op.create_index(
        "ix_webhook_deliveries_live",
        "webhook_deliveries",
        ["receiver_id", "state", "id"],
        postgresql_where=sa.text("finished_at IS NULL"),
    )
    op.create_index(
        "ix_webhook_deliveries_finished",
        "webhook_deliveries",
        ["finished_at"],
        postgresql_where=sa.text("finished_at IS NOT NULL"),
    )
    op.create_table(
        "webhook_tries",
        sa.Column("delivery_id", sa.Uuid(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column(
            "started_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.Column("duration_ms", sa.Integer(), nullable=True),
        sa.Column("status", sa.SmallInteger(), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("detail", sa.Text(), nullable=True),
        sa.Column("answer", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(
            ["delivery_id"],
            ["webhook_deliveries.id"],
            name=op.f("fk_webhook_tries_delivery_id_webhook_deliveries"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("delivery_id", "number", name=op.f("pk_webhook_tries")),
    )
    op.create_table(
        "task_follow_ups",
        sa.Column("task_id", sa.Uuid(), nullable=False),
        sa.Column("webhook_url", sa.Text(), nullable=True),
        sa.Column("webhook_secret", sa.Text(), nullable=True),
        sa.Column("notify", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=True),
        sa.PrimaryKeyConstraint("task_id", name=op.f("pk_task_follow_ups")),
    )
    op.add_column(
        "schedules", sa.Column("follow_up", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=True)
    )
    for statement in (
        *define_functions(revision, *FUNCTIONS),
        NOTE_END_TRIGGER,
        NOTE_WORKFLOW_END_TRIGGER,
        NOTE_SCHEDULE_FAILURE_TRIGGER,
    ):
        op.execute(statement)


def downgrade() -> None:
    op.execute("DROP TRIGGER schedules_note_failure ON schedules")
    op.execute("DROP TRIGGER workflows_note_end ON workflows")
    for statement in (OLD_NOTE_END_TRIGGER, *restore_functions(revision, *FUNCTIONS)):
        op.execute(statement)
    op.drop_column("schedules", "follow_up")
    for table in ("task_follow_ups", "webhook_tries", "webhook_deliveries", "webhook_secrets", "webhook_endpoints"):
        op.drop_table(table)
