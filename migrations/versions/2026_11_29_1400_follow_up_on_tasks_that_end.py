"""Follow up on tasks in the transaction that ends them, and submit the `on_finished` of a batch that way.

- `tasks_note_end`, a row trigger, notes the id of a task that ends, if something may follow.
- `tasks_follow_up`, a statement trigger, runs after all row triggers of the statement. It passes the noted ids to
  `taskmill_follow_ends`, which calls one function for each subject. A later migration adds a subject by replacing that
  function, and `taskmill_note_end` if other tasks must be noted.
- `taskmill_insert_tasks` inserts the tasks that follow.

A function for one subject locks what it decides about in the order of its ids: two statements that end several tasks
each would otherwise wait for each other.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

INSERT_TASKS = """
CREATE FUNCTION taskmill_insert_tasks(submissions jsonb) RETURNS uuid[] LANGUAGE plpgsql AS $$
DECLARE
    ids uuid[];
BEGIN
    WITH submitted AS MATERIALIZED (
        SELECT uuidv7() AS id, given.* FROM jsonb_to_recordset(submissions) AS given (
            kind text, kind_version int2, queue text, status text, organization_id uuid, owner_id uuid, api_key_id uuid,
            priority int2, max_attempts int2, timeout_seconds int, keep_seconds int, run_at timestamptz, delay float8,
            ttl int, batch_id uuid, parent_id uuid, schedule_id uuid, traceparent text, request_id text, tags text,
            metadata jsonb, params jsonb, files jsonb)
    ),
    task AS (
        INSERT INTO tasks (id, kind, kind_version, queue, status, organization_id, owner_id, api_key_id, priority,
            max_attempts, timeout_seconds, keep_seconds, run_at, ttl, expires_at, batch_id, parent_id, schedule_id,
            traceparent, request_id, tags, metadata)
        SELECT id, kind, kind_version, queue, status, organization_id, owner_id, api_key_id, priority,
            max_attempts, timeout_seconds, keep_seconds, coalesce(run_at, now() + delay * interval '1 second'), ttl,
            now() + ttl * interval '1 second', batch_id, parent_id, schedule_id,
            traceparent, request_id, coalesce(tags, '{}')::text[], coalesce(metadata, '{}')
        FROM submitted
    ),
    payload AS (INSERT INTO task_payloads (task_id, params) SELECT id, params FROM submitted),
    event AS (
        INSERT INTO task_events (task_id, seq, type, data)
        SELECT id, 1, 'status', jsonb_build_object('status', status) FROM submitted
    ),
    -- A file that was deleted since the submission is left out: the attempt then fails, and says which file is gone.
    locked_file AS MATERIALIZED (
        SELECT file.id FROM files AS file WHERE file.id IN (
            SELECT input.file_id::uuid
            FROM submitted CROSS JOIN LATERAL jsonb_array_elements_text(submitted.files) AS input (file_id))
        ORDER BY file.id FOR KEY SHARE
    ),
    input_file AS (
        INSERT INTO task_files (task_id, file_id, role, position)
        SELECT submitted.id, locked_file.id, 'input', min(input.position)
        FROM submitted CROSS JOIN LATERAL jsonb_array_elements_text(submitted.files) WITH ORDINALITY
            AS input (file_id, position) JOIN locked_file ON locked_file.id = input.file_id::uuid
        GROUP BY submitted.id, locked_file.id
    ),
    notice AS (
        SELECT pg_notify('taskmill_due', string_agg(DISTINCT queue, ',')) FROM submitted
        WHERE status = 'queued' HAVING count(*) > 0
    )
    SELECT array_agg(submitted.id ORDER BY submitted.id) INTO ids
    FROM submitted LEFT JOIN (SELECT count(*) FROM notice) AS notified ON true;
    RETURN coalesce(ids, '{}');
END $$
"""

FINISH_BATCHES = """
CREATE FUNCTION taskmill_finish_batches(ended uuid[]) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    follow_up record;
BEGIN
    FOR follow_up IN
        SELECT batch.* FROM batch_follow_ups AS batch
        WHERE batch.task_id IS NULL AND batch.batch_id IN (
            SELECT task.batch_id FROM unnest(ended) AS one (id) JOIN tasks AS task ON task.id = ANY (ARRAY[one.id]))
        ORDER BY batch.batch_id FOR UPDATE
    LOOP
        IF NOT EXISTS (SELECT FROM tasks AS task WHERE task.batch_id = follow_up.batch_id AND task.finished_at IS NULL) THEN
            UPDATE batch_follow_ups SET task_id = (taskmill_insert_tasks(jsonb_build_array(follow_up.on_finished)))[1]
            WHERE batch_id = follow_up.batch_id;
        END IF;
    END LOOP;
END $$
"""

FOLLOW_ENDS = """
CREATE FUNCTION taskmill_follow_ends(ended uuid[]) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM taskmill_finish_batches(ended);
END $$
"""

# A transaction-local setting passes the ids on, because a statement trigger sees no rows without transition tables, which
# would copy every updated row of every statement.
NOTE_END = """
CREATE FUNCTION taskmill_note_end() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF new.batch_id IS NOT NULL AND EXISTS (SELECT FROM batch_follow_ups AS batch WHERE batch.batch_id = new.batch_id) THEN
        PERFORM set_config('taskmill.ended',
            concat_ws(',', nullif(current_setting('taskmill.ended', true), ''), new.id::text), true);
    END IF;
    RETURN NULL;
END $$
"""

NOTE_END_TRIGGER = """
CREATE TRIGGER tasks_note_end AFTER UPDATE OF finished_at ON tasks FOR EACH ROW
WHEN (old.finished_at IS NULL AND new.finished_at IS NOT NULL AND new.batch_id IS NOT NULL)
EXECUTE FUNCTION taskmill_note_end()
"""

FOLLOW_UP = """
CREATE FUNCTION taskmill_follow_up() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    ended text := current_setting('taskmill.ended', true);
BEGIN
    IF ended <> '' THEN
        PERFORM set_config('taskmill.ended', '', true);
        PERFORM taskmill_follow_ends(string_to_array(ended, ',')::uuid[]);
    END IF;
    RETURN NULL;
END $$
"""

FOLLOW_UP_TRIGGER = """
CREATE TRIGGER tasks_follow_up AFTER UPDATE OF finished_at ON tasks FOR EACH STATEMENT
EXECUTE FUNCTION taskmill_follow_up()
"""


def upgrade() -> None:
    op.create_table(
        "batch_follow_ups",
        sa.Column("batch_id", sa.Uuid(), nullable=False),
        sa.Column("on_finished", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("task_id", sa.Uuid(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("batch_id", name=op.f("pk_batch_follow_ups")),
    )
    for statement in (
        INSERT_TASKS,
        FINISH_BATCHES,
        FOLLOW_ENDS,
        NOTE_END,
        FOLLOW_UP,
        NOTE_END_TRIGGER,
        FOLLOW_UP_TRIGGER,
    ):
        op.execute(statement)


def downgrade() -> None:
    op.execute("DROP TRIGGER tasks_follow_up ON tasks")
    op.execute("DROP TRIGGER tasks_note_end ON tasks")
    for function in (
        "taskmill_follow_up()",
        "taskmill_note_end()",
        "taskmill_follow_ends(uuid[])",
        "taskmill_finish_batches(uuid[])",
        "taskmill_insert_tasks(jsonb)",
    ):
        op.execute(f"DROP FUNCTION {function}")
    op.drop_table("batch_follow_ups")
