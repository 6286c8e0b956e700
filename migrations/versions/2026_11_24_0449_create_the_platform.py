"""Create the platform: tables, the table of moves, and the fence around running rows."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from shared.queries.database_functions import define_functions, restore_functions

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

MOVES = (
    "cancelled>queued",
    "expired>queued",
    "failed>queued",
    "queued>cancelled",
    "queued>expired",
    "queued>running",
    "retrying>cancelled",
    "retrying>expired",
    "retrying>queued",
    "running>cancelled",
    "running>failed",
    "running>queued",
    "running>retrying",
    "running>succeeded",
    "scheduled>cancelled",
    "scheduled>expired",
    "scheduled>queued",
)

FUNCTIONS = ("taskmill_refuse", "taskmill_refuse_insert")

# Each trigger's WHEN is an expression, so that plpgsql runs only to refuse. A write to a running row must turn
# named_claim into the row's claim, or into its complement when it is the claim already: a writer that does not know the
# claim, or knows an older one, leaves it as it was, and is refused.
TRIGGERS = (
    f"""
CREATE TRIGGER tasks_move AFTER UPDATE OF status ON tasks FOR EACH ROW
WHEN (old.status IS DISTINCT FROM new.status
      AND (old.status || '>' || new.status) <> ALL (ARRAY[{", ".join(f"'{move}'" for move in MOVES)}]))
EXECUTE FUNCTION taskmill_refuse('no such move')
""",
    """
CREATE TRIGGER tasks_fence AFTER UPDATE ON tasks FOR EACH ROW
WHEN (old.status = 'running' AND new.named_claim IS DISTINCT FROM
      (CASE WHEN old.named_claim = old.claim THEN ~old.claim ELSE old.claim END))
EXECUTE FUNCTION taskmill_refuse('the claim was not named')
""",
    """
CREATE TRIGGER tasks_first_state BEFORE INSERT ON tasks FOR EACH ROW
WHEN (new.status NOT IN ('scheduled', 'queued'))
EXECUTE FUNCTION taskmill_refuse_insert()
""",
    """
CREATE TRIGGER tasks_delete BEFORE DELETE ON tasks FOR EACH ROW
WHEN (old.finished_at IS NULL)
EXECUTE FUNCTION taskmill_refuse('only a finished task may be deleted')
""",
)


def upgrade() -> None:
    op.create_table(
        "email_intents",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("task_id", sa.Uuid(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("message_id", sa.Text(), nullable=False),
        sa.Column("recipients", postgresql.ARRAY(sa.Text()), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("given_up_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("attempt >= 1", name=op.f("ck_email_intents_attempt_is_positive")),
        sa.CheckConstraint(
            "cardinality(recipients) BETWEEN 1 AND 150", name=op.f("ck_email_intents_recipients_are_bounded")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_email_intents")),
    )
    op.create_index(op.f("ix_email_intents_task_id"), "email_intents", ["task_id"], unique=False)
    op.create_table(
        "files",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("organization_id", sa.Uuid(), nullable=False),
        sa.Column("owner_id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("media_type", sa.Text(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("sha256", sa.LargeBinary(), nullable=False),
        sa.Column("origin", sa.Text(), nullable=False),
        sa.Column("task_id", sa.Uuid(), nullable=True),
        sa.Column("storage_key", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("(origin = 'task') = (task_id IS NOT NULL)", name=op.f("ck_files_made_by_a_task")),
        sa.CheckConstraint("origin IN ('upload', 'task')", name=op.f("ck_files_known_origin")),
        sa.CheckConstraint("length(sha256) = 32", name=op.f("ck_files_sha256")),
        sa.CheckConstraint("size >= 0", name=op.f("ck_files_size")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_files")),
        sa.UniqueConstraint("storage_key", name=op.f("uq_files_storage_key")),
    )
    op.create_index(
        "ix_files_expires_at", "files", ["expires_at"], unique=False, postgresql_where=sa.text("expires_at IS NOT NULL")
    )
    op.create_index("ix_files_organization", "files", ["organization_id", sa.literal_column("id DESC")], unique=False)
    op.create_index(
        "ix_files_task_id", "files", ["task_id"], unique=False, postgresql_where=sa.text("task_id IS NOT NULL")
    )
    op.create_table(
        "idempotency_keys",
        sa.Column("owner_id", sa.Uuid(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("fingerprint", sa.LargeBinary(), nullable=True),
        sa.Column("subject_id", sa.Uuid(), nullable=True),
        sa.Column("status_code", sa.SmallInteger(), nullable=True),
        sa.Column("in_flight_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint(
            "(subject_id IS NULL) = (in_flight_until IS NOT NULL) AND (subject_id IS NULL) = (status_code IS NULL)",
            name=op.f("ck_idempotency_keys_kept_or_in_flight"),
        ),
        sa.PrimaryKeyConstraint("owner_id", "key", name=op.f("pk_idempotency_keys")),
    )
    op.create_index("ix_idempotency_keys_created_at", "idempotency_keys", ["created_at"], unique=False)
    op.create_table(
        "organizations",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_organizations")),
        sa.UniqueConstraint("name", name=op.f("uq_organizations_name")),
    )
    op.create_table(
        "schedules",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("params", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("every_seconds", sa.Integer(), nullable=False),
        sa.Column("enabled", sa.Boolean(), server_default="true", nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("every_seconds >= 1", name=op.f("ck_schedules_every_seconds")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_schedules")),
        sa.UniqueConstraint("name", name=op.f("uq_schedules_name")),
    )
    op.create_table(
        "signs_of_life",
        sa.Column("part", sa.Text(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("part", name=op.f("pk_signs_of_life")),
    )
    op.create_table(
        "task_events",
        sa.Column("task_id", sa.Uuid(), nullable=False),
        sa.Column("seq", sa.Integer(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("data", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.CheckConstraint("type IN ('status', 'progress', 'log')", name=op.f("ck_task_events_known_type")),
        sa.CheckConstraint("seq >= 1", name=op.f("ck_task_events_seq_from_one")),
        sa.PrimaryKeyConstraint("task_id", "seq", name=op.f("pk_task_events")),
    )
    op.create_table(
        "task_payloads",
        sa.Column("task_id", sa.Uuid(), nullable=False),
        sa.Column("params", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("result", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("error", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.PrimaryKeyConstraint("task_id", name=op.f("pk_task_payloads")),
        postgresql_with={"fillfactor": "85"},
    )
    op.create_table(
        "tasks",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("kind_version", sa.SmallInteger(), server_default="1", nullable=False),
        sa.Column("queue", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("organization_id", sa.Uuid(), nullable=False),
        sa.Column("owner_id", sa.Uuid(), nullable=False),
        sa.Column("api_key_id", sa.Uuid(), nullable=True),
        sa.Column("priority", sa.SmallInteger(), server_default="5", nullable=False),
        sa.Column("attempt", sa.Integer(), server_default="0", nullable=False),
        sa.Column("max_attempts", sa.SmallInteger(), nullable=False),
        sa.Column("timeout_seconds", sa.Integer(), nullable=False),
        sa.Column("keep_seconds", sa.Integer(), nullable=False),
        sa.Column("claim", sa.BigInteger(), nullable=True),
        sa.Column("named_claim", sa.BigInteger(), nullable=True),
        sa.Column("lease_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("version", sa.Integer(), server_default="1", nullable=False),
        sa.Column("rung_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("run_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("next_attempt_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("ttl", sa.Integer(), nullable=True),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("batch_id", sa.Uuid(), nullable=True),
        sa.Column("parent_id", sa.Uuid(), nullable=True),
        sa.Column("schedule_id", sa.Uuid(), nullable=True),
        sa.Column("traceparent", sa.Text(), nullable=True),
        sa.Column("request_id", sa.Text(), nullable=True),
        sa.Column("tags", sa.ARRAY(sa.Text()), server_default="{}", nullable=False),
        sa.Column("metadata", postgresql.JSONB(astext_type=sa.Text()), server_default="{}", nullable=False),
        sa.Column("progress_percent", sa.SmallInteger(), nullable=True),
        sa.Column("progress_message", sa.Text(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("cancel_requested_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("purge_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "(status = 'retrying') = (next_attempt_at IS NOT NULL)", name=op.f("ck_tasks_next_attempt_iff_retrying")
        ),
        sa.CheckConstraint("(status = 'running') = (claim IS NOT NULL)", name=op.f("ck_tasks_claimed_iff_running")),
        sa.CheckConstraint(
            "(status = 'running') = (lease_until IS NOT NULL)", name=op.f("ck_tasks_leased_iff_running")
        ),
        sa.CheckConstraint(
            "(status IN ('cancelled', 'expired', 'failed', 'succeeded')) = (finished_at IS NOT NULL)",
            name=op.f("ck_tasks_finished_iff_done"),
        ),
        sa.CheckConstraint(
            "(status IN ('cancelled', 'expired', 'failed', 'succeeded')) = (purge_at IS NOT NULL)",
            name=op.f("ck_tasks_purged_only_when_done"),
        ),
        sa.CheckConstraint("queue IN ('email', 'files', 'maintenance', 'reports')", name=op.f("ck_tasks_known_queue")),
        sa.CheckConstraint("status <> 'scheduled' OR run_at IS NOT NULL", name=op.f("ck_tasks_scheduled_for_a_time")),
        sa.CheckConstraint(
            "status IN ('cancelled', 'expired', 'failed', 'queued', 'retrying', 'running', 'scheduled', 'succeeded')",
            name=op.f("ck_tasks_known_status"),
        ),
        sa.CheckConstraint("attempt BETWEEN 0 AND max_attempts", name=op.f("ck_tasks_attempt_within_max")),
        sa.CheckConstraint("max_attempts BETWEEN 1 AND 1000", name=op.f("ck_tasks_max_attempts")),
        sa.CheckConstraint("priority BETWEEN 0 AND 9", name=op.f("ck_tasks_priority")),
        sa.CheckConstraint("progress_percent BETWEEN 0 AND 100", name=op.f("ck_tasks_progress_percent")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_tasks")),
        postgresql_with={"fillfactor": "70", "autovacuum_vacuum_scale_factor": "0.02"},
    )
    op.create_index(
        "ix_tasks_batch", "tasks", ["batch_id", "id"], unique=False, postgresql_where=sa.text("batch_id IS NOT NULL")
    )
    op.create_index(
        "ix_tasks_due",
        "tasks",
        ["queue", "owner_id", sa.literal_column("priority DESC"), "id"],
        unique=False,
        postgresql_where=sa.text("status = 'queued' AND rung_at IS NULL"),
    )
    op.create_index(
        "ix_tasks_expiring",
        "tasks",
        ["expires_at"],
        unique=False,
        postgresql_where=sa.text("expires_at IS NOT NULL AND status IN ('scheduled', 'queued', 'retrying')"),
    )
    op.create_index(
        "ix_tasks_leases", "tasks", ["lease_until"], unique=False, postgresql_where=sa.text("status = 'running'")
    )
    op.create_index("ix_tasks_organization", "tasks", ["organization_id", sa.literal_column("id DESC")], unique=False)
    op.create_index(
        "ix_tasks_purge", "tasks", ["purge_at"], unique=False, postgresql_where=sa.text("purge_at IS NOT NULL")
    )
    op.create_index(
        "ix_tasks_rung",
        "tasks",
        ["queue", "rung_at"],
        unique=False,
        postgresql_where=sa.text("status = 'queued' AND rung_at IS NOT NULL"),
    )
    op.create_index(
        "ix_tasks_tags",
        "tasks",
        ["tags"],
        unique=False,
        postgresql_using="gin",
        postgresql_where=sa.text("tags <> '{}'"),
    )
    op.create_index(
        "ix_tasks_waiting",
        "tasks",
        [sa.literal_column("coalesce(next_attempt_at, run_at)")],
        unique=False,
        postgresql_where=sa.text("status IN ('scheduled', 'retrying')"),
    )
    op.create_table(
        "tombstones",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("organization_id", sa.Uuid(), nullable=False),
        sa.Column("owner_id", sa.Uuid(), nullable=False),
        sa.Column("purged_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("subject IN ('task', 'file')", name=op.f("ck_tombstones_known_subject")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_tombstones")),
    )
    op.create_index("ix_tombstones_purged_at", "tombstones", ["purged_at"], unique=False)
    op.create_table(
        "unique_tasks",
        sa.Column("owner_id", sa.Uuid(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("params_sha256", sa.LargeBinary(), nullable=False),
        sa.Column("task_id", sa.Uuid(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("owner_id", "kind", "params_sha256", name=op.f("pk_unique_tasks")),
    )
    op.create_index("ix_unique_tasks_task_id", "unique_tasks", ["task_id"], unique=False)
    op.create_table(
        "callers",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("organization_id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(
            ["organization_id"], ["organizations.id"], name=op.f("fk_callers_organization_id_organizations")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_callers")),
    )
    op.create_table(
        "email_receipts",
        sa.Column("intent_id", sa.Uuid(), nullable=False),
        sa.Column("recipient", sa.Text(), nullable=False),
        sa.Column("task_id", sa.Uuid(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("code", sa.SmallInteger(), nullable=True),
        sa.Column("reply", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint(
            "status <> 'accepted' OR coalesce(code, 0) BETWEEN 200 AND 299",
            name=op.f("ck_email_receipts_acceptance_has_its_code"),
        ),
        sa.CheckConstraint(
            "status IN ('accepted', 'rejected', 'deferred')", name=op.f("ck_email_receipts_status_is_known")
        ),
        sa.CheckConstraint("char_length(reply) <= 500", name=op.f("ck_email_receipts_reply_is_bounded")),
        sa.CheckConstraint("code BETWEEN 200 AND 599", name=op.f("ck_email_receipts_code_is_a_reply_code")),
        sa.ForeignKeyConstraint(
            ["intent_id"],
            ["email_intents.id"],
            name=op.f("fk_email_receipts_intent_id_email_intents"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("intent_id", "recipient", name=op.f("pk_email_receipts")),
    )
    op.create_index(op.f("ix_email_receipts_task_id"), "email_receipts", ["task_id"], unique=False)
    op.create_table(
        "schedule_slots",
        sa.Column("schedule_id", sa.Uuid(), nullable=False),
        sa.Column("slot", sa.DateTime(timezone=True), nullable=False),
        sa.Column("task_id", sa.Uuid(), nullable=False),
        sa.ForeignKeyConstraint(
            ["schedule_id"], ["schedules.id"], name=op.f("fk_schedule_slots_schedule_id_schedules"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("schedule_id", "slot", name=op.f("pk_schedule_slots")),
    )
    op.create_table(
        "task_files",
        sa.Column("task_id", sa.Uuid(), nullable=False),
        sa.Column("file_id", sa.Uuid(), nullable=False),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("position", sa.SmallInteger(), server_default="0", nullable=False),
        sa.CheckConstraint("role IN ('input', 'artifact')", name=op.f("ck_task_files_known_role")),
        sa.ForeignKeyConstraint(
            ["file_id"], ["files.id"], name=op.f("fk_task_files_file_id_files"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("task_id", "file_id", "role", name=op.f("pk_task_files")),
    )
    op.create_index("ix_task_files_file", "task_files", ["file_id"], unique=False)
    op.create_table(
        "api_keys",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("caller_id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("prefix", sa.Text(), nullable=False),
        sa.Column("sha256", sa.LargeBinary(), nullable=False),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("scopes", sa.ARRAY(sa.Text()), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("revoked_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("role IN ('client', 'operator', 'admin')", name=op.f("ck_api_keys_known_role")),
        sa.CheckConstraint("length(sha256) = 32", name=op.f("ck_api_keys_sha256")),
        sa.ForeignKeyConstraint(["caller_id"], ["callers.id"], name=op.f("fk_api_keys_caller_id_callers")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_api_keys")),
        sa.UniqueConstraint("prefix", name=op.f("uq_api_keys_prefix")),
    )
    for statement in (*define_functions(revision, *FUNCTIONS), *TRIGGERS):
        op.execute(statement)


def downgrade() -> None:
    op.drop_table("api_keys")
    op.drop_index("ix_task_files_file", table_name="task_files")
    op.drop_table("task_files")
    op.drop_table("schedule_slots")
    op.drop_index(op.f("ix_email_receipts_task_id"), table_name="email_receipts")
    op.drop_table("email_receipts")
    op.drop_table("callers")
    op.drop_index("ix_unique_tasks_task_id", table_name="unique_tasks")
    op.drop_table("unique_tasks")
    op.drop_index("ix_tombstones_purged_at", table_name="tombstones")
    op.drop_table("tombstones")
    op.drop_index(
        "ix_tasks_waiting", table_name="tasks", postgresql_where=sa.text("status IN ('scheduled', 'retrying')")
    )
    op.drop_index("ix_tasks_tags", table_name="tasks", postgresql_using="gin", postgresql_where=sa.text("tags <> '{}'"))
    op.drop_index(
        "ix_tasks_rung", table_name="tasks", postgresql_where=sa.text("status = 'queued' AND rung_at IS NOT NULL")
    )
    op.drop_index("ix_tasks_purge", table_name="tasks", postgresql_where=sa.text("purge_at IS NOT NULL"))
    op.drop_index("ix_tasks_organization", table_name="tasks")
    op.drop_index("ix_tasks_leases", table_name="tasks", postgresql_where=sa.text("status = 'running'"))
    op.drop_index(
        "ix_tasks_expiring",
        table_name="tasks",
        postgresql_where=sa.text("expires_at IS NOT NULL AND status IN ('scheduled', 'queued', 'retrying')"),
    )
    op.drop_index("ix_tasks_due", table_name="tasks", postgresql_where=sa.text("status = 'queued' AND rung_at IS NULL"))
    op.drop_index("ix_tasks_batch", table_name="tasks", postgresql_where=sa.text("batch_id IS NOT NULL"))
    op.drop_table("tasks")
    op.drop_table("task_payloads")
    op.drop_table("task_events")
    op.drop_table("signs_of_life")
    op.drop_table("schedules")
    op.drop_table("organizations")
    op.drop_index("ix_idempotency_keys_created_at", table_name="idempotency_keys")
    op.drop_table("idempotency_keys")
    op.drop_index("ix_files_task_id", table_name="files", postgresql_where=sa.text("task_id IS NOT NULL"))
    op.drop_index("ix_files_organization", table_name="files")
    op.drop_index("ix_files_expires_at", table_name="files", postgresql_where=sa.text("expires_at IS NOT NULL"))
    op.drop_table("files")
    op.drop_index(op.f("ix_email_intents_task_id"), table_name="email_intents")
    op.drop_table("email_intents")
    for statement in restore_functions(revision, *FUNCTIONS):
        op.execute(statement)
