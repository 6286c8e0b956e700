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

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None

# `taskmill_insert_tasks` inserts the tasks that follow others: it also stores what they ask for when they end.
FOLLOW_UPS = """follow_up AS (
        INSERT INTO task_follow_ups (task_id, webhook_url, webhook_secret, notify)
        SELECT new_id, follow_up->>''webhook_url'', follow_up->>''webhook_secret'', follow_up->''notify'' FROM submitted
        WHERE follow_up IS NOT NULL
    ),
    notice AS ("""
REPLACE_INSERT_TASKS = f"""
DO $do$ BEGIN
    EXECUTE replace(replace(pg_get_functiondef('taskmill_insert_tasks(jsonb)'::regprocedure),
        'params jsonb, files jsonb', 'params jsonb, files jsonb, follow_up jsonb'), 'notice AS (', '{FOLLOW_UPS}');
END $do$
"""
RESTORE_INSERT_TASKS = f"""
DO $do$ BEGIN
    EXECUTE replace(replace(pg_get_functiondef('taskmill_insert_tasks(jsonb)'::regprocedure), '{FOLLOW_UPS}', 'notice AS ('),
        ', follow_up jsonb', '');
END $do$
"""

TIMESTAMP = """
CREATE FUNCTION taskmill_timestamp(moment timestamptz) RETURNS text LANGUAGE sql STABLE AS $$
    SELECT to_char(moment AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')
$$
"""

TASK_DOCUMENT = """
CREATE FUNCTION taskmill_task_document(given uuid) RETURNS json LANGUAGE sql STABLE AS $$
    SELECT json_build_object(
        'id', task.id, 'kind', task.kind, 'queue', task.queue, 'status', task.status, 'done', task.finished_at IS NOT NULL,
        'progress', CASE WHEN task.progress_percent IS NOT NULL
            THEN json_build_object('percent', task.progress_percent, 'message', task.progress_message) END,
        'attempt', task.attempt, 'max_attempts', task.max_attempts,
        'next_attempt_at', taskmill_timestamp(task.next_attempt_at), 'priority', task.priority,
        'result', CASE WHEN task.status = 'succeeded' THEN payload.result END,
        'error', CASE WHEN task.status <> 'succeeded' THEN payload.error END,
        'artifacts', CASE WHEN task.status = 'succeeded' THEN coalesce((
            SELECT json_agg(json_build_object('id', file.id, 'name', file.name, 'media_type', file.media_type,
                'size', file.size, 'sha256', encode(file.sha256, 'hex'), 'url', '/files/' || file.id || '/content',
                'expires_at', taskmill_timestamp(task.purge_at)) ORDER BY artifact.position)
            FROM task_files AS artifact JOIN files AS file ON file.id = ANY (ARRAY[artifact.file_id])
            WHERE artifact.task_id = task.id AND artifact.role = 'artifact'), '[]') ELSE '[]' END,
        'tags', to_json(task.tags), 'metadata', task.metadata, 'batch_id', task.batch_id,
        'workflow_id', task.workflow_id, 'workflow_step', task.workflow_step,
        'rerun_of', task.rerun_of,
        'created_at', taskmill_timestamp(task.created_at), 'run_at', taskmill_timestamp(task.run_at),
        'started_at', taskmill_timestamp(task.started_at), 'finished_at', taskmill_timestamp(task.finished_at),
        'cancel_requested_at', taskmill_timestamp(task.cancel_requested_at), 'purge_at', taskmill_timestamp(task.purge_at),
        'links', json_build_object('self', '/tasks/' || task.id, 'events', '/tasks/' || task.id || '/events',
            'cancel', '/tasks/' || task.id || '/cancel', 'rerun', '/tasks/' || task.id || '/rerun',
            'reruns', '/tasks?rerun_of=' || task.id))
    FROM tasks AS task JOIN task_payloads AS payload ON payload.task_id = ANY (ARRAY[task.id])
    WHERE task.id = given
$$
"""

BATCH_DOCUMENT = """
CREATE FUNCTION taskmill_batch_document(given uuid) RETURNS json LANGUAGE sql STABLE AS $$
    SELECT json_build_object('id', given, 'total', sum(counted.tasks),
        'counts', json_object_agg(counted.status, counted.tasks), 'created_at', taskmill_timestamp(min(counted.created_at)),
        'finished_at', taskmill_timestamp(max(counted.finished_at)))
    FROM (SELECT status, count(*) AS tasks, min(created_at) AS created_at, max(finished_at) AS finished_at
        FROM tasks WHERE batch_id = given GROUP BY status) AS counted
$$
"""

SCHEDULE_DOCUMENT = """
CREATE FUNCTION taskmill_schedule_document(schedule schedules) RETURNS json LANGUAGE sql STABLE AS $$
    SELECT json_build_object('id', schedule.id, 'name', schedule.name, 'enabled', schedule.enabled, 'cron', schedule.cron,
        'every', schedule.every_seconds, 'timezone', schedule.timezone,
        'starts_at', taskmill_timestamp(schedule.starts_at), 'ends_at', taskmill_timestamp(schedule.ends_at),
        'missed', schedule.missed, 'overlap', schedule.overlap, 'jitter', schedule.jitter_seconds, 'kind', schedule.kind,
        'next_at', taskmill_timestamp(schedule.next_at), 'last_error', schedule.last_error,
        'created_at', taskmill_timestamp(schedule.created_at), 'updated_at', taskmill_timestamp(schedule.updated_at),
        'links', json_build_object('self', '/schedules/' || schedule.id, 'run', '/schedules/' || schedule.id || '/run'))
$$
"""

START_DELIVERY = """
CREATE FUNCTION taskmill_start_delivery(given uuid) RETURNS uuid LANGUAGE sql AS $$
    UPDATE webhook_deliveries AS delivery SET state = 'pending', next_try_at = NULL, finished_at = NULL,
        send_task_id = (taskmill_insert_tasks(jsonb_build_array(jsonb_build_object(
            'kind', 'webhooks.deliver', 'kind_version', 1, 'queue', 'webhooks', 'status', 'queued',
            'organization_id', '00000000-0000-7000-8000-000000000000', 'owner_id', delivery.receiver_id,
            'priority', 5, 'max_attempts', 200, 'timeout_seconds', 60, 'keep_seconds', 86400,
            'params', jsonb_build_object('delivery_id', delivery.id)))))[1]
    WHERE delivery.id = given RETURNING delivery.send_task_id
$$
"""

RECEIVER_BOUND = """
CREATE FUNCTION taskmill_receiver_bound(receiver uuid) RETURNS integer LANGUAGE sql STABLE AS $$
    SELECT CASE WHEN EXISTS (SELECT FROM webhook_endpoints AS endpoint
        WHERE endpoint.id = receiver AND endpoint.failing_since IS NOT NULL) THEN 1 ELSE 4 END
$$
"""

COUNT_SENDING = """
CREATE FUNCTION taskmill_count_sending(receiver uuid, besides uuid) RETURNS bigint LANGUAGE sql STABLE AS $$
    SELECT count(*) FROM webhook_deliveries AS delivery JOIN tasks AS task ON task.id = ANY (ARRAY[delivery.send_task_id])
    WHERE delivery.receiver_id = receiver AND delivery.state = 'sending' AND delivery.finished_at IS NULL
        AND task.status = 'running' AND delivery.id <> besides
$$
"""

START_WAITING = """
CREATE FUNCTION taskmill_start_waiting(receiver uuid, besides uuid) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    room bigint := taskmill_receiver_bound(receiver) - taskmill_count_sending(receiver, besides) - (
        SELECT count(*) FROM webhook_deliveries AS delivery WHERE delivery.receiver_id = receiver
            AND delivery.state = 'pending' AND delivery.finished_at IS NULL AND delivery.next_try_at IS NULL
            AND delivery.id <> besides);
    waiting record;
BEGIN
    IF room > 0 THEN
        FOR waiting IN
            SELECT delivery.id FROM webhook_deliveries AS delivery WHERE delivery.receiver_id = receiver
                AND delivery.state = 'waiting' AND delivery.finished_at IS NULL
            ORDER BY delivery.id LIMIT room FOR UPDATE
        LOOP
            PERFORM taskmill_start_delivery(waiting.id);
        END LOOP;
    END IF;
END $$
"""

ABANDON_DELIVERY = """
CREATE FUNCTION taskmill_abandon_delivery(given uuid) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    receiver uuid := (SELECT delivery.receiver_id FROM webhook_deliveries AS delivery WHERE delivery.id = given
        AND delivery.finished_at IS NULL);
BEGIN
    IF receiver IS NOT NULL THEN
        PERFORM pg_advisory_xact_lock(hashtextextended(receiver::text, 0));
        UPDATE webhook_deliveries SET state = 'failed', next_try_at = NULL, finished_at = now()
        WHERE id = given AND state IN ('pending', 'sending');
        PERFORM taskmill_start_waiting(receiver, given);
    END IF;
END $$
"""

SUBMIT_WEBHOOKS = """
CREATE FUNCTION taskmill_submit_webhooks(
    organization uuid, type text, subject_task uuid, subject_kind text, subject_tags text[], document json
) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    delivery record;
BEGIN
    FOR delivery IN
        INSERT INTO webhook_deliveries (id, organization_id, endpoint_id, task_id, event_type, data, receiver_id, give_up_at)
        SELECT uuidv7(), organization, endpoint.id, subject_task, type, document, endpoint.id, now() + interval '3 days'
        FROM webhook_endpoints AS endpoint
        WHERE endpoint.organization_id = organization AND endpoint.enabled AND type = ANY (endpoint.event_types)
            AND (subject_kind IS NULL OR endpoint.kinds = '{}' OR subject_kind = ANY (endpoint.kinds))
            AND (subject_tags IS NULL OR endpoint.tags = '{}' OR endpoint.tags && subject_tags)
        RETURNING id
    LOOP
        PERFORM taskmill_start_delivery(delivery.id);
    END LOOP;
END $$
"""

NOTIFY_OWNER = """
CREATE FUNCTION taskmill_submit_notice(subject uuid, submission jsonb) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    task tasks;
    error jsonb;
BEGIN
    SELECT * INTO task FROM tasks WHERE id = subject;
    SELECT payload.error INTO error FROM task_payloads AS payload WHERE payload.task_id = subject;
    PERFORM taskmill_insert_tasks(jsonb_build_array(submission || jsonb_build_object(
        'parent_id', task.id, 'request_id', task.request_id,
        'params', (submission->'params') || jsonb_build_object(
            'subject', format('Task %s: %s', task.status, task.kind),
            'text', format(E'The task %s of the kind %s is %s since %s.\\n', task.id, task.kind, task.status,
                    taskmill_timestamp(task.finished_at))
                || CASE WHEN task.status <> 'succeeded' AND error IS NOT NULL
                    THEN format(E'\\n%s: %s\\n', error->>'title', coalesce(error->>'detail', error->>'type')) ELSE '' END
                || CASE WHEN task.tags <> '{}' THEN format(E'\\nTags: %s\\n', array_to_string(task.tags, ', ')) ELSE '' END
                || format(E'\\nIts result and history: GET /tasks/%s\\n', task.id)))));
END $$
"""

DELIVER_ENDS = """
CREATE FUNCTION taskmill_submit_webhooks_of_ends(ended uuid[]) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    task record;
    batch record;
    delivery uuid;
    document json;
BEGIN
    FOR task IN
        SELECT subject.id, subject.kind, subject.status, subject.organization_id, subject.tags, follow_up.webhook_url,
            follow_up.webhook_secret, follow_up.notify
        FROM unnest(ended) AS one (id) JOIN tasks AS subject ON subject.id = ANY (ARRAY[one.id])
        LEFT JOIN task_follow_ups AS follow_up ON follow_up.task_id = ANY (ARRAY[one.id])
        ORDER BY subject.id
    LOOP
        IF task.kind = 'webhooks.deliver' THEN
            IF task.status <> 'succeeded' THEN
                PERFORM taskmill_abandon_delivery((SELECT (payload.params->>'delivery_id')::uuid
                    FROM task_payloads AS payload WHERE payload.task_id = task.id));
            END IF;
            CONTINUE;
        END IF;
        document := NULL;
        IF task.webhook_url IS NOT NULL OR EXISTS (SELECT FROM webhook_endpoints AS endpoint
            WHERE endpoint.organization_id = task.organization_id AND endpoint.enabled
                AND ('task.' || task.status) = ANY (endpoint.event_types))
        THEN
            document := taskmill_task_document(task.id);
            PERFORM taskmill_submit_webhooks(
                task.organization_id, 'task.' || task.status, task.id, task.kind, task.tags, document);
        END IF;
        IF task.webhook_url IS NOT NULL THEN
            INSERT INTO webhook_deliveries
                (id, organization_id, task_id, event_type, data, url, secret, receiver_id, give_up_at)
            VALUES (uuidv7(), task.organization_id, task.id, 'task.' || task.status, document, task.webhook_url,
                task.webhook_secret,
                md5(task.organization_id || substring(task.webhook_url FROM '^[a-z]+://[^/]*'))::uuid,
                now() + interval '3 days')
            RETURNING id INTO delivery;
            PERFORM taskmill_start_delivery(delivery);
        END IF;
        IF task.notify->'on' ? task.status THEN
            PERFORM taskmill_submit_notice(task.id, task.notify->'submission');
        END IF;
    END LOOP;
    FOR batch IN
        SELECT DISTINCT subject.batch_id AS id, subject.organization_id
        FROM unnest(ended) AS one (id) JOIN tasks AS subject ON subject.id = ANY (ARRAY[one.id])
        WHERE subject.batch_id IS NOT NULL AND EXISTS (SELECT FROM webhook_endpoints AS endpoint
            WHERE endpoint.organization_id = subject.organization_id AND endpoint.enabled
                AND 'batch.finished' = ANY (endpoint.event_types))
        ORDER BY 1
    LOOP
        -- Of two transactions that end the last two tasks of a batch, the second sees the end of the first.
        PERFORM pg_advisory_xact_lock(hashtextextended(batch.id::text, 0));
        IF NOT EXISTS (SELECT FROM tasks AS other WHERE other.batch_id = batch.id AND other.finished_at IS NULL) THEN
            PERFORM taskmill_submit_webhooks(
                batch.organization_id, 'batch.finished', NULL, NULL, NULL, taskmill_batch_document(batch.id));
        END IF;
    END LOOP;
END $$
"""

FOLLOW_ENDS = """
CREATE OR REPLACE FUNCTION taskmill_follow_ends(ended uuid[]) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM taskmill_advance_workflows(ended);
    PERFORM taskmill_finish_batches(ended);
    PERFORM taskmill_submit_webhooks_of_ends(ended);
END $$
"""

NOTE_END = """
CREATE OR REPLACE FUNCTION taskmill_note_end() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF new.workflow_id IS NOT NULL
        OR (new.batch_id IS NOT NULL AND EXISTS (SELECT FROM batch_follow_ups AS batch WHERE batch.batch_id = new.batch_id))
        OR EXISTS (SELECT FROM webhook_endpoints AS endpoint WHERE endpoint.organization_id = new.organization_id)
        OR EXISTS (SELECT FROM task_follow_ups AS follow_up WHERE follow_up.task_id = new.id)
        OR (new.kind = 'webhooks.deliver' AND new.status <> 'succeeded')
    THEN
        PERFORM set_config('taskmill.ended',
            concat_ws(',', nullif(current_setting('taskmill.ended', true), ''), new.id::text), true);
    END IF;
    RETURN NULL;
END $$
"""

NOTE_END_TRIGGER = """
CREATE OR REPLACE TRIGGER tasks_note_end AFTER UPDATE OF finished_at ON tasks FOR EACH ROW
WHEN (old.finished_at IS NULL AND new.finished_at IS NOT NULL)
EXECUTE FUNCTION taskmill_note_end()
"""

WORKFLOW_DOCUMENT = """
CREATE FUNCTION taskmill_workflow_document(workflow workflows) RETURNS json LANGUAGE sql STABLE AS $$
    SELECT json_build_object('id', workflow.id, 'name', workflow.name, 'status', workflow.status,
        'done', workflow.finished_at IS NOT NULL,
        'step_counts', (SELECT json_object_agg(counted.status, counted.steps) FROM (
            SELECT status, count(*) AS steps FROM workflow_steps WHERE workflow_id = workflow.id GROUP BY status) AS counted),
        'schedule_id', workflow.schedule_id, 'created_at', taskmill_timestamp(workflow.created_at),
        'cancel_requested_at', taskmill_timestamp(workflow.cancel_requested_at),
        'finished_at', taskmill_timestamp(workflow.finished_at),
        'links', json_build_object('self', '/workflows/' || workflow.id, 'cancel', '/workflows/' || workflow.id || '/cancel',
            'tasks', '/tasks?workflow_id=' || workflow.id),
        'steps', (SELECT json_agg(json_build_object('name', step.name, 'kind', step.submission->>'kind',
            'status', step.status, 'after', to_json(step.after), 'on_failure', step.on_failure, 'task_id', step.task_id,
            'error', step.error) ORDER BY step.place) FROM workflow_steps AS step WHERE step.workflow_id = workflow.id))
$$
"""

NOTE_WORKFLOW_END = """
CREATE FUNCTION taskmill_note_workflow_end() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT FROM webhook_endpoints AS endpoint WHERE endpoint.organization_id = new.organization_id
        AND endpoint.enabled AND 'workflow.finished' = ANY (endpoint.event_types))
    THEN
        PERFORM taskmill_submit_webhooks(new.organization_id, 'workflow.finished', NULL, NULL, NULL,
            taskmill_workflow_document(new));
    END IF;
    RETURN NULL;
END $$
"""

NOTE_WORKFLOW_END_TRIGGER = """
CREATE TRIGGER workflows_note_end AFTER UPDATE OF finished_at ON workflows FOR EACH ROW
WHEN (old.finished_at IS NULL AND new.finished_at IS NOT NULL)
EXECUTE FUNCTION taskmill_note_workflow_end()
"""

NOTE_SCHEDULE_FAILURE = """
CREATE FUNCTION taskmill_note_schedule_failure() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM taskmill_submit_webhooks(new.organization_id, 'schedule.failed', NULL, new.kind, NULL,
        taskmill_schedule_document(new));
    RETURN NULL;
END $$
"""

NOTE_SCHEDULE_FAILURE_TRIGGER = """
CREATE TRIGGER schedules_note_failure AFTER UPDATE OF last_error ON schedules FOR EACH ROW
WHEN (new.last_error IS NOT NULL AND new.next_at IS DISTINCT FROM old.next_at)
EXECUTE FUNCTION taskmill_note_schedule_failure()
"""

OLD_FOLLOW_ENDS = """
CREATE OR REPLACE FUNCTION taskmill_follow_ends(ended uuid[]) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM taskmill_advance_workflows(ended);
    PERFORM taskmill_finish_batches(ended);
END $$
"""

OLD_NOTE_END = """
CREATE OR REPLACE FUNCTION taskmill_note_end() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF new.workflow_id IS NOT NULL
        OR new.batch_id IS NOT NULL AND EXISTS (SELECT FROM batch_follow_ups AS batch WHERE batch.batch_id = new.batch_id) THEN
        PERFORM set_config('taskmill.ended',
            concat_ws(',', nullif(current_setting('taskmill.ended', true), ''), new.id::text), true);
    END IF;
    RETURN NULL;
END $$
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
        REPLACE_INSERT_TASKS,
        *(TIMESTAMP, TASK_DOCUMENT, BATCH_DOCUMENT, SCHEDULE_DOCUMENT, START_DELIVERY, RECEIVER_BOUND, COUNT_SENDING),
        *(START_WAITING, ABANDON_DELIVERY, SUBMIT_WEBHOOKS, NOTIFY_OWNER, DELIVER_ENDS, FOLLOW_ENDS, NOTE_END),
        *(
            NOTE_END_TRIGGER,
            WORKFLOW_DOCUMENT,
            NOTE_WORKFLOW_END,
            NOTE_WORKFLOW_END_TRIGGER,
            NOTE_SCHEDULE_FAILURE,
            NOTE_SCHEDULE_FAILURE_TRIGGER,
        ),
    ):
        op.execute(statement)


def downgrade() -> None:
    op.execute("DROP TRIGGER schedules_note_failure ON schedules")
    op.execute("DROP TRIGGER workflows_note_end ON workflows")
    for statement in (OLD_NOTE_END_TRIGGER, OLD_NOTE_END, OLD_FOLLOW_ENDS, RESTORE_INSERT_TASKS):
        op.execute(statement)
    for function in (
        "taskmill_note_schedule_failure()",
        "taskmill_note_workflow_end()",
        "taskmill_workflow_document(workflows)",
        "taskmill_submit_webhooks_of_ends(uuid[])",
        "taskmill_submit_notice(uuid, jsonb)",
        "taskmill_submit_webhooks(uuid, text, uuid, text, text[], json)",
        "taskmill_abandon_delivery(uuid)",
        "taskmill_start_waiting(uuid, uuid)",
        "taskmill_count_sending(uuid, uuid)",
        "taskmill_receiver_bound(uuid)",
        "taskmill_start_delivery(uuid)",
        "taskmill_schedule_document(schedules)",
        "taskmill_batch_document(uuid)",
        "taskmill_task_document(uuid)",
        "taskmill_timestamp(timestamptz)",
    ):
        op.execute(f"DROP FUNCTION {function}")
    op.drop_column("schedules", "follow_up")
    for table in ("task_follow_ups", "webhook_tries", "webhook_deliveries", "webhook_secrets", "webhook_endpoints"):
        op.drop_table(table)
