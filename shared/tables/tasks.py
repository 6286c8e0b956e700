"""Tables of tasks, their payloads, their events, and the files that they read and make.

No foreign key refers to `tasks`, so that it can be partitioned by id, and because each key would cost a lock for each
insert. A task is deleted together with its rows in other tables in one transaction (`erase_tasks` in
`shared/queries/purging.py`).
"""

from __future__ import annotations

from sqlalchemy import (
    ARRAY,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    Double,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    SmallInteger,
    Table,
    Text,
    Uuid,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

from shared.tables.base import TransactionId, metadata
from shared.tasks.states import DONE, TaskStatus


def _values(values: object) -> str:
    return ", ".join(f"'{value}'" for value in sorted(str(v) for v in values))  # type: ignore[attr-defined]


moment = DateTime(timezone=True)

tasks = Table(
    "tasks",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("kind", Text, nullable=False),
    Column("kind_version", SmallInteger, nullable=False, server_default="1"),
    Column("queue", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("organization_id", Uuid, nullable=False),
    Column("owner_id", Uuid, nullable=False),
    Column("api_key_id", Uuid),
    Column("priority", SmallInteger, nullable=False, server_default="5"),
    Column("attempt", Integer, nullable=False, server_default="0"),
    Column("max_attempts", SmallInteger, nullable=False),
    Column("timeout_seconds", Integer, nullable=False),
    Column("keep_seconds", Integer, nullable=False),
    Column("claim", BigInteger),
    Column("named_claim", BigInteger),
    Column("lease_until", moment),
    Column("version", Integer, nullable=False, server_default="1"),
    Column("rung_at", moment),
    Column("turn", Double),
    Column("run_at", moment),
    Column("next_attempt_at", moment),
    Column("ttl", Integer),
    Column("expires_at", moment),
    Column("batch_id", Uuid),
    Column("parent_id", Uuid),
    Column("schedule_id", Uuid),
    Column("workflow_id", Uuid),
    # The name of the step of that workflow that the task is, or is one of.
    Column("workflow_step", Text),
    Column("traceparent", Text),
    Column("request_id", Text),
    Column("tags", ARRAY(Text), nullable=False, server_default="{}"),
    Column("metadata", JSONB, nullable=False, server_default="{}"),
    Column("backoff", JSONB),
    Column("rerun_of", Uuid),
    # True for a task with a row of its own, or of its batch, in which a follow-up is stored. Triggers of those tables set it.
    Column("has_follow_up", Boolean),
    # The options `concurrency` and `rate`, as one object; NULL without either.
    Column("key_limits", JSONB),
    # Since when it is due and not published because a limit of a key is reached.
    Column("blocked_at", moment),
    Column("progress_percent", SmallInteger),
    Column("progress_message", Text),
    Column("created_at", moment, nullable=False, server_default=func.now()),
    Column("started_at", moment),
    Column("finished_at", moment),
    Column("cancel_requested_at", moment),
    Column("purge_at", moment),
    CheckConstraint(f"status IN ({_values(TaskStatus)})", name="known_status"),
    CheckConstraint("(status = 'running') = (claim IS NOT NULL)", name="claimed_iff_running"),
    CheckConstraint("(status = 'running') = (lease_until IS NOT NULL)", name="leased_iff_running"),
    CheckConstraint(f"(status IN ({_values(DONE)})) = (finished_at IS NOT NULL)", name="finished_iff_done"),
    CheckConstraint(f"(status IN ({_values(DONE)})) = (purge_at IS NOT NULL)", name="purged_only_when_done"),
    CheckConstraint("(status = 'retrying') = (next_attempt_at IS NOT NULL)", name="next_attempt_iff_retrying"),
    # A step of a workflow that waits for the steps before it has no time.
    CheckConstraint(
        "status <> 'scheduled' OR run_at IS NOT NULL OR workflow_id IS NOT NULL", name="scheduled_for_a_time"
    ),
    CheckConstraint("priority BETWEEN 0 AND 9", name="priority"),
    CheckConstraint("attempt BETWEEN 0 AND max_attempts", name="attempt_within_max"),
    CheckConstraint("max_attempts BETWEEN 1 AND 1000", name="max_attempts"),
    CheckConstraint("progress_percent BETWEEN 0 AND 100", name="progress_percent"),
    Index(
        "ix_tasks_publishable",
        "queue",
        "kind",
        "owner_id",
        text("priority DESC"),
        "id",
        postgresql_where=text("status = 'queued' AND rung_at IS NULL AND blocked_at IS NULL"),
    ),
    Index(
        "ix_tasks_blocked",
        "organization_id",
        text("coalesce((key_limits -> 'concurrency') ->> 'key', '')"),
        text("coalesce((key_limits -> 'rate') ->> 'key', '')"),
        "queue",
        "kind",
        "owner_id",
        text("priority DESC"),
        "id",
        postgresql_where=text("status = 'queued' AND blocked_at IS NOT NULL"),
    ),
    # The last column of both is 0 for published and running tasks.
    Index(
        "ix_tasks_concurrency_key",
        "organization_id",
        text("((key_limits -> 'concurrency') ->> 'key')"),
        text("((rung_at IS NULL AND claim IS NULL)::integer)"),
        postgresql_where=text(
            "key_limits -> 'concurrency' IS NOT NULL AND status IN ('queued', 'running') AND blocked_at IS NULL"
        ),
    ),
    Index(
        "ix_tasks_rate_key",
        "organization_id",
        text("((key_limits -> 'rate') ->> 'key')"),
        text("((rung_at IS NULL AND claim IS NULL)::integer)"),
        postgresql_where=text("key_limits -> 'rate' IS NOT NULL AND status = 'queued' AND blocked_at IS NULL"),
    ),
    Index(
        "ix_tasks_published",
        "queue",
        text("turn NULLS FIRST"),
        "id",
        postgresql_where=text("status = 'queued' AND rung_at IS NOT NULL"),
    ),
    Index("ix_tasks_leases", "lease_until", postgresql_where=text("status = 'running'")),
    Index(
        "ix_tasks_waiting",
        text("coalesce(next_attempt_at, run_at)"),
        postgresql_where=text("status IN ('scheduled', 'retrying')"),
    ),
    Index(
        "ix_tasks_expiring",
        "expires_at",
        postgresql_where=text("expires_at IS NOT NULL AND status IN ('scheduled', 'queued', 'retrying')"),
    ),
    Index("ix_tasks_purge", "purge_at", postgresql_where=text("purge_at IS NOT NULL")),
    Index("ix_tasks_organization", "organization_id", text("id DESC")),
    Index("ix_tasks_batch", "batch_id", "id", postgresql_where=text("batch_id IS NOT NULL")),
    Index("ix_tasks_workflow", "workflow_id", "id", postgresql_where=text("workflow_id IS NOT NULL")),
    Index("ix_tasks_tags", "tags", postgresql_using="gin", postgresql_where=text("tags <> '{}'")),
    Index(
        "ix_tasks_metadata",
        "metadata",
        postgresql_using="gin",
        postgresql_ops={"metadata": "jsonb_path_ops"},
        postgresql_where=text("metadata <> '{}'"),
    ),
    Index("ix_tasks_parent", "parent_id", "id", postgresql_where=text("parent_id IS NOT NULL")),
    Index("ix_tasks_schedule", "schedule_id", "id", postgresql_where=text("schedule_id IS NOT NULL")),
    Index("ix_tasks_rerun_of", "rerun_of", "id", postgresql_where=text("rerun_of IS NOT NULL")),
    Index(
        "ix_tasks_unsuccessful_by_status",
        "organization_id",
        "status",
        "id",
        postgresql_where=text("status IN ('cancelled', 'expired', 'failed')"),
    ),
    # Room in each page lets an update that changes no indexed column stay there (a heap-only tuple).
    postgresql_with={"fillfactor": "70", "autovacuum_vacuum_scale_factor": "0.02"},
)

task_payloads = Table(
    "task_payloads",
    metadata,
    Column("task_id", Uuid, primary_key=True),
    Column("params", JSONB, nullable=False),
    Column("result", JSONB),
    Column("error", JSONB),
    Index(
        "ix_task_payloads_error_type", text("(error ->> 'type')"), "task_id", postgresql_where=text("error IS NOT NULL")
    ),
    postgresql_with={"fillfactor": "85"},
)

task_events = Table(
    "task_events",
    metadata,
    Column("task_id", Uuid, primary_key=True),
    Column("seq", Integer, primary_key=True),
    Column("at", moment, nullable=False, server_default=func.now()),
    Column("type", Text, nullable=False),
    Column("data", JSONB, nullable=False),
    # NULL for events that were stored before this column existed.
    Column("transaction_id", TransactionId, server_default=text("pg_current_xact_id()")),
    CheckConstraint("type IN ('status', 'progress', 'log')", name="known_type"),
    CheckConstraint("seq >= 1", name="seq_from_one"),
    Index("ix_task_events_transaction", "transaction_id", postgresql_where=text("transaction_id IS NOT NULL")),
)

task_files = Table(
    "task_files",
    metadata,
    Column("task_id", Uuid, primary_key=True),
    Column("file_id", Uuid, ForeignKey("files.id", ondelete="CASCADE"), primary_key=True),
    Column("role", Text, primary_key=True),
    Column("position", SmallInteger, nullable=False, server_default="0"),
    CheckConstraint("role IN ('input', 'artifact')", name="known_role"),
    Index("ix_task_files_file", "file_id"),
)

idempotency_keys = Table(
    "idempotency_keys",
    metadata,
    Column("owner_id", Uuid, primary_key=True),
    Column("key", Text, primary_key=True),
    Column("fingerprint", LargeBinary),
    Column("subject_id", Uuid),
    Column("status_code", SmallInteger),
    Column("in_flight_until", moment),
    Column("created_at", moment, nullable=False, server_default=func.now()),
    # A key either names the task, batch or file that was stored with it, or is reserved for a time by a running upload.
    CheckConstraint(
        "(subject_id IS NULL) = (in_flight_until IS NOT NULL) AND (subject_id IS NULL) = (status_code IS NULL)",
        name="kept_or_in_flight",
    ),
    Index("ix_idempotency_keys_created_at", "created_at"),
)

unique_tasks = Table(
    "unique_tasks",
    metadata,
    Column("owner_id", Uuid, primary_key=True),
    Column("kind", Text, primary_key=True),
    Column("params_sha256", LargeBinary, primary_key=True),
    Column("task_id", Uuid, nullable=False),
    Column("created_at", moment, nullable=False, server_default=func.now()),
    Index("ix_unique_tasks_task_id", "task_id"),
)

tombstones = Table(
    "tombstones",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("subject", Text, nullable=False),
    Column("organization_id", Uuid, nullable=False),
    Column("owner_id", Uuid, nullable=False),
    Column("purged_at", moment, nullable=False, server_default=func.now()),
    CheckConstraint("subject IN ('task', 'file', 'workflow')", name="known_subject"),
    Index("ix_tombstones_purged_at", "purged_at"),
)
