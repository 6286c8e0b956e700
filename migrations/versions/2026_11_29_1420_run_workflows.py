"""Add workflows: tasks that are steps, each of which starts when the steps before it have ended.

`taskmill_advance_workflow` moves one workflow on, in the transaction that ends one of its tasks. It locks the workflow's row
first, so that of two transactions that end the last two steps before another one, the second sees both ends and starts it.
`taskmill_reopen_workflow`, a trigger, does the opposite when a caller retries a step.

The older code, which may still run, leaves steps that wait alone: they have no `run_at`.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

OLD_MOVES = (
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
MOVES = (*OLD_MOVES, "cancelled>scheduled", "scheduled>failed")


def move_trigger(moves: tuple[str, ...]) -> str:
    return f"""
CREATE OR REPLACE TRIGGER tasks_move AFTER UPDATE OF status ON tasks FOR EACH ROW
WHEN (old.status IS DISTINCT FROM new.status
      AND (old.status || '>' || new.status) <> ALL (ARRAY[{", ".join(f"'{move}'" for move in moves)}]))
EXECUTE FUNCTION taskmill_refuse('no such move')
"""


def insert_tasks(columns: str, inserted: str, new_id: str) -> str:
    """Return the function that inserts tasks. `columns` are those of a submission beside the usual ones, `inserted` their
    names in `tasks`, and `new_id` is the id of a task."""
    return f"""
CREATE OR REPLACE FUNCTION taskmill_insert_tasks(submissions jsonb) RETURNS uuid[] LANGUAGE plpgsql AS $$
DECLARE
    ids uuid[];
BEGIN
    WITH submitted AS MATERIALIZED (
        SELECT {new_id} AS new_id, given.* FROM jsonb_to_recordset(submissions) AS given (
            {columns}kind text, kind_version int2, queue text, status text, organization_id uuid, owner_id uuid,
            api_key_id uuid, priority int2, max_attempts int2, timeout_seconds int, keep_seconds int, run_at timestamptz,
            delay float8, ttl int, batch_id uuid, parent_id uuid, schedule_id uuid, traceparent text, request_id text,
            tags text, metadata jsonb, params jsonb, files jsonb)
    ),
    task AS (
        INSERT INTO tasks (id, {inserted}kind, kind_version, queue, status, organization_id, owner_id, api_key_id, priority,
            max_attempts, timeout_seconds, keep_seconds, run_at, ttl, expires_at, batch_id, parent_id, schedule_id,
            traceparent, request_id, tags, metadata)
        SELECT new_id, {inserted}kind, kind_version, queue, status, organization_id, owner_id, api_key_id, priority,
            max_attempts, timeout_seconds, keep_seconds, coalesce(run_at, now() + delay * interval '1 second'), ttl,
            now() + ttl * interval '1 second', batch_id, parent_id, schedule_id,
            traceparent, request_id, coalesce(tags, '{{}}')::text[], coalesce(metadata, '{{}}')
        FROM submitted
    ),
    payload AS (INSERT INTO task_payloads (task_id, params) SELECT new_id, params FROM submitted),
    event AS (
        INSERT INTO task_events (task_id, seq, type, data)
        SELECT new_id, 1, 'status', jsonb_build_object('status', status) FROM submitted
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
        SELECT submitted.new_id, locked_file.id, 'input', min(input.position)
        FROM submitted CROSS JOIN LATERAL jsonb_array_elements_text(submitted.files) WITH ORDINALITY
            AS input (file_id, position) JOIN locked_file ON locked_file.id = input.file_id::uuid
        GROUP BY submitted.new_id, locked_file.id
    ),
    notice AS (
        SELECT pg_notify('taskmill_due', string_agg(DISTINCT queue, ',')) FROM submitted
        WHERE status = 'queued' HAVING count(*) > 0
    )
    SELECT array_agg(submitted.new_id ORDER BY submitted.new_id) INTO ids
    FROM submitted LEFT JOIN (SELECT count(*) FROM notice) AS notified ON true;
    RETURN coalesce(ids, '{{}}');
END $$
"""  # noqa: S608 - constants of this module


FIND_VALUE = """
CREATE FUNCTION taskmill_find_step_value(of_workflow uuid, of_step text, path text[]) RETURNS jsonb LANGUAGE plpgsql STABLE AS $$
DECLARE
    step record;
    document jsonb;
BEGIN
    SELECT * INTO step FROM workflow_steps WHERE workflow_id = of_workflow AND name = of_step;
    SELECT jsonb_build_object(
        'artifacts', coalesce((
            SELECT jsonb_agg(jsonb_build_object('id', file.id, 'name', file.name, 'media_type', file.media_type,
                'size', file.size, 'sha256', encode(file.sha256, 'hex'), 'url', '/files/' || file.id || '/content')
                ORDER BY link.task_id, link.position)
            FROM tasks AS task JOIN task_files AS link ON link.task_id = task.id AND link.role = 'artifact'
                JOIN files AS file ON file.id = link.file_id
            WHERE task.workflow_id = of_workflow AND task.workflow_step = of_step AND task.status = 'succeeded'), '[]'),
        'status', step.status)
        || CASE WHEN step.for_each IS NULL
            THEN (SELECT jsonb_build_object('result', payload.result, 'error', payload.error)
                FROM task_payloads AS payload WHERE payload.task_id = step.task_id)
            ELSE (SELECT jsonb_build_object('results', coalesce(jsonb_agg(payload.result ORDER BY task.id), '[]'))
                FROM tasks AS task JOIN task_payloads AS payload ON payload.task_id = task.id
                WHERE task.workflow_id = of_workflow AND task.workflow_step = of_step) END
    INTO document;
    RETURN document #> path;
END $$
"""

RESOLVE = """
CREATE FUNCTION taskmill_resolve_params(step workflow_steps, item jsonb, OUT params jsonb, OUT files jsonb, OUT problem text)
LANGUAGE plpgsql STABLE AS $$
DECLARE
    reference record;
    value jsonb;
BEGIN
    params := step.submission->'params';
    files := coalesce(step.submission->'files', '[]');
    FOR reference IN SELECT * FROM jsonb_to_recordset(step.refs) AS each (pointer text[], source text, path text[], written text)
    LOOP
        value := CASE WHEN reference.source = 'item' THEN item #> reference.path
            ELSE taskmill_find_step_value(step.workflow_id, reference.source, reference.path) END;
        IF value IS NULL THEN
            problem := format('There is no %s. It was to become the param %s.', reference.written,
                '/' || array_to_string(reference.pointer, '/'));
            RETURN;
        END IF;
        params := jsonb_set(params, reference.pointer, value, false);
        IF reference.path[array_upper(reference.path, 1)] = 'id' AND (reference.source = 'item' OR reference.path[1] = 'artifacts')
            AND pg_input_is_valid(value #>> '{}', 'uuid') THEN
            files := files || jsonb_build_array(value);
        END IF;
    END LOOP;
    IF octet_length(params::text) > 1048576 THEN
        problem := 'With the values of the steps before it, the params are larger than 1 MiB.';
    END IF;
END $$
"""

END_STEP = """
CREATE FUNCTION taskmill_end_unstarted_step(step workflow_steps, ends_as text, problem jsonb, by_upstream boolean)
RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    UPDATE workflow_steps SET status = ends_as, upstream_failed = by_upstream, error = problem
    WHERE workflow_id = step.workflow_id AND name = step.name;
    WITH ended AS (
        UPDATE tasks AS task SET status = ends_as, finished_at = now(), run_at = NULL, version = task.version + 1,
            purge_at = now() + task.keep_seconds * interval '1 second'
        WHERE task.id = step.task_id AND task.status = 'scheduled'
        RETURNING task.id, task.version
    ),
    payload AS (
        UPDATE task_payloads AS payload SET error = problem FROM ended WHERE payload.task_id = ended.id
    )
    INSERT INTO task_events (task_id, seq, type, data)
    SELECT id, version, 'status', jsonb_build_object('status', ends_as) FROM ended;
END $$
"""

START_STEP = """
CREATE FUNCTION taskmill_start_step(step workflow_steps) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    items jsonb := '[null]';
    submissions jsonb := '[]';
    item record;
    resolved record;
    problem text;
    starts_at timestamptz := coalesce((step.submission->>'run_at')::timestamptz,
        now() + (step.submission->>'delay')::float8 * interval '1 second');
BEGIN
    IF step.for_each IS NOT NULL THEN
        items := taskmill_find_step_value(step.workflow_id, step.for_each->>'source',
            ARRAY(SELECT jsonb_array_elements_text(step.for_each->'path')));
        IF items IS NULL THEN
            problem := format('There is no %s, for each of whose elements a task was to be submitted.', step.for_each->>'written');
        ELSIF jsonb_typeof(items) <> 'array' THEN
            problem := format('%s is no list.', step.for_each->>'written');
        ELSIF jsonb_array_length(items) > 1000 THEN
            problem := format('%s has %s elements; a step may have at most 1,000 tasks.', step.for_each->>'written',
                jsonb_array_length(items));
        END IF;
    END IF;
    IF problem IS NULL THEN
        FOR item IN SELECT each.value FROM jsonb_array_elements(items) WITH ORDINALITY AS each (value, place) ORDER BY each.place
        LOOP
            SELECT * INTO resolved FROM taskmill_resolve_params(step, item.value);
            problem := resolved.problem;
            EXIT WHEN problem IS NOT NULL;
            submissions := submissions || jsonb_build_array(step.submission || jsonb_build_object(
                'params', resolved.params, 'files', resolved.files,
                'status', CASE WHEN starts_at IS NULL THEN 'queued' ELSE 'scheduled' END));
        END LOOP;
    END IF;
    IF problem IS NOT NULL THEN
        PERFORM taskmill_end_unstarted_step(step, 'failed', jsonb_build_object('type', '/problems/unresolved-reference',
            'title', 'Unresolved reference', 'detail', problem, 'retryable', false, 'attempt', 0, 'data', '{}'::jsonb), false);
        RETURN 'failed';
    END IF;
    UPDATE workflow_steps SET started_at = now(), error = NULL,
        status = CASE WHEN submissions = '[]' THEN 'succeeded' ELSE 'running' END
    WHERE workflow_id = step.workflow_id AND name = step.name;
    IF step.for_each IS NOT NULL THEN
        PERFORM taskmill_insert_tasks(submissions);
        RETURN CASE WHEN submissions = '[]' THEN 'succeeded' ELSE 'running' END;
    END IF;
    UPDATE task_payloads SET params = resolved.params WHERE task_id = step.task_id;
    INSERT INTO task_files (task_id, file_id, role, position)
    SELECT step.task_id, file.id, 'input', 0 FROM files AS file
    WHERE file.id IN (SELECT id::uuid FROM jsonb_array_elements_text(resolved.files) AS input (id)) FOR KEY SHARE
    ON CONFLICT DO NOTHING;
    WITH started AS (
        UPDATE tasks AS task SET status = CASE WHEN starts_at IS NULL THEN 'queued' ELSE 'scheduled' END, run_at = starts_at,
            rung_at = NULL, turn = NULL, version = task.version + 1
        WHERE task.id = step.task_id AND task.status = 'scheduled'
        RETURNING task.id, task.version, task.status, task.queue
    ),
    event AS (
        INSERT INTO task_events (task_id, seq, type, data)
        SELECT id, version, 'status', jsonb_build_object('status', status) FROM started
    )
    SELECT pg_notify('taskmill_due', queue) FROM started WHERE status = 'queued' INTO problem;
    RETURN 'running';
END $$
"""

# A step that has ended lets those after it go on if it succeeded, or if it failed by itself and says so.
LETS_GO_ON = """
CREATE FUNCTION taskmill_lets_go_on(step workflow_steps) RETURNS boolean LANGUAGE sql IMMUTABLE AS $$
    SELECT step.status = 'succeeded' OR (step.on_failure = 'continue' AND NOT step.upstream_failed)
$$
"""

ADVANCE = """
CREATE FUNCTION taskmill_advance_workflow(of_workflow uuid) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    workflow record;
    step workflow_steps;
    place_of_step smallint;
    before record;
BEGIN
    -- What this function ends itself calls it again, and is taken into account by the loop below.
    IF current_setting('taskmill.advancing', true) = of_workflow::text THEN
        RETURN;
    END IF;
    SELECT * INTO workflow FROM workflows WHERE id = of_workflow AND finished_at IS NULL FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    PERFORM set_config('taskmill.advancing', of_workflow::text, true);
    UPDATE workflow_steps AS one SET status = task.status
    FROM tasks AS task
    WHERE one.workflow_id = of_workflow AND one.status IN ('waiting', 'running') AND task.id = one.task_id
        AND task.finished_at IS NOT NULL;
    UPDATE workflow_steps AS one SET status = every.status
    FROM workflow_steps AS fanned CROSS JOIN LATERAL (
        SELECT CASE WHEN bool_and(task.status = 'succeeded') THEN 'succeeded'
            WHEN bool_or(task.status IN ('failed', 'expired')) THEN 'failed' ELSE 'cancelled' END AS status
        FROM tasks AS task WHERE task.workflow_id = of_workflow AND task.workflow_step = fanned.name
        HAVING bool_and(task.finished_at IS NOT NULL)) AS every
    WHERE fanned.workflow_id = of_workflow AND fanned.status = 'running' AND fanned.task_id IS NULL
        AND one.workflow_id = of_workflow AND one.name = fanned.name;
    FOR place_of_step IN
        SELECT place FROM workflow_steps WHERE workflow_id = of_workflow AND status = 'waiting' ORDER BY place
    LOOP
        SELECT * INTO step FROM workflow_steps WHERE workflow_id = of_workflow AND place = place_of_step;
        SELECT count(*) FILTER (WHERE one.status IN ('waiting', 'running')) AS live,
            jsonb_agg(one.name ORDER BY one.place)
                FILTER (WHERE one.status NOT IN ('waiting', 'running') AND NOT taskmill_lets_go_on(one)) AS failed
        INTO before FROM workflow_steps AS one WHERE one.workflow_id = of_workflow AND one.name = ANY (step.after);
        IF workflow.cancel_requested_at IS NOT NULL THEN
            PERFORM taskmill_end_unstarted_step(step, 'cancelled', jsonb_build_object('type', '/problems/cancelled',
                'title', 'Cancelled', 'detail', 'A caller cancelled the workflow.', 'retryable', false, 'attempt', 0,
                'data', '{}'::jsonb), false);
        ELSIF before.failed IS NOT NULL THEN
            PERFORM taskmill_end_unstarted_step(step, 'cancelled', jsonb_build_object('type', '/problems/upstream-failed',
                'title', 'Upstream failed', 'detail', format('The step %s before it did not succeed, so it was not started. '
                    'Retry that step, and this one goes on after it.', before.failed->>0),
                'retryable', false, 'attempt', 0, 'data', jsonb_build_object('steps', before.failed)), true);
        ELSIF before.live = 0 THEN
            PERFORM taskmill_start_step(step);
        END IF;
    END LOOP;
    UPDATE workflows SET finished_at = clock_timestamp(), status = CASE
        WHEN (SELECT bool_and(taskmill_lets_go_on(one)) FROM workflow_steps AS one WHERE one.workflow_id = of_workflow)
            THEN 'succeeded'
        WHEN workflow.cancel_requested_at IS NULL AND EXISTS (SELECT FROM workflow_steps AS one
            WHERE one.workflow_id = of_workflow AND one.status IN ('failed', 'expired') AND NOT taskmill_lets_go_on(one))
            THEN 'failed'
        ELSE 'cancelled' END
    WHERE id = of_workflow
        AND NOT EXISTS (SELECT FROM workflow_steps WHERE workflow_id = of_workflow AND status IN ('waiting', 'running'));
    PERFORM set_config('taskmill.advancing', '', true);
END $$
"""

ADVANCE_ALL = """
CREATE FUNCTION taskmill_advance_workflows(ended uuid[]) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    of_workflow uuid;
BEGIN
    FOR of_workflow IN
        SELECT DISTINCT task.workflow_id FROM unnest(ended) AS one (id) JOIN tasks AS task ON task.id = ANY (ARRAY[one.id])
        WHERE task.workflow_id IS NOT NULL ORDER BY task.workflow_id
    LOOP
        PERFORM taskmill_advance_workflow(of_workflow);
    END LOOP;
END $$
"""

REOPEN = """
CREATE FUNCTION taskmill_reopen_workflow() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    step workflow_steps;
    later workflow_steps;
    resolved record;
    unfinished text;
    reopened text[] := ARRAY[new.workflow_step];
BEGIN
    PERFORM FROM workflows WHERE id = new.workflow_id FOR NO KEY UPDATE;
    SELECT * INTO step FROM workflow_steps WHERE workflow_id = new.workflow_id AND name = new.workflow_step;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    IF step.started_at IS NULL THEN
        SELECT one.name INTO unfinished FROM workflow_steps AS one
        WHERE one.workflow_id = new.workflow_id AND one.name = ANY (step.after)
            AND (one.status IN ('waiting', 'running') OR NOT taskmill_lets_go_on(one))
        ORDER BY one.place LIMIT 1;
        IF FOUND THEN
            RAISE EXCEPTION 'The step % before it has not succeeded. Retry that one, and this one goes on after it.', unfinished
                USING ERRCODE = 'TM002';
        END IF;
        SELECT * INTO resolved FROM taskmill_resolve_params(step, NULL);
        IF resolved.problem IS NOT NULL THEN
            RAISE EXCEPTION '%', resolved.problem USING ERRCODE = 'TM002';
        END IF;
        UPDATE task_payloads SET params = resolved.params WHERE task_id = new.id;
        INSERT INTO task_files (task_id, file_id, role, position)
        SELECT new.id, file.id, 'input', 0 FROM files AS file
        WHERE file.id IN (SELECT id::uuid FROM jsonb_array_elements_text(resolved.files) AS input (id)) FOR KEY SHARE
        ON CONFLICT DO NOTHING;
    END IF;
    UPDATE workflow_steps SET status = 'running', started_at = coalesce(started_at, now()), upstream_failed = false, error = NULL
    WHERE workflow_id = new.workflow_id AND name = step.name;
    UPDATE workflows SET status = 'running', finished_at = NULL, cancel_requested_at = NULL WHERE id = new.workflow_id;
    FOR later IN SELECT * FROM workflow_steps WHERE workflow_id = new.workflow_id ORDER BY place
    LOOP
        CONTINUE WHEN later.status <> 'cancelled' OR later.started_at IS NOT NULL OR NOT later.after && reopened
            OR EXISTS (SELECT FROM workflow_steps AS one
                WHERE one.workflow_id = new.workflow_id AND one.name = ANY (later.after) AND one.name <> ALL (reopened)
                    AND one.status NOT IN ('waiting', 'running') AND NOT taskmill_lets_go_on(one));
        reopened := reopened || later.name;
        UPDATE workflow_steps SET status = 'waiting', upstream_failed = false, error = NULL
        WHERE workflow_id = new.workflow_id AND name = later.name;
        WITH waiting AS (
            UPDATE tasks AS task SET status = 'scheduled', run_at = NULL, ttl = NULL, expires_at = NULL, finished_at = NULL,
                purge_at = NULL, cancel_requested_at = NULL, version = task.version + 1
            WHERE task.id = later.task_id AND task.status = 'cancelled'
            RETURNING task.id, task.version
        ),
        payload AS (
            UPDATE task_payloads AS payload SET error = NULL, params = later.submission->'params'
            FROM waiting WHERE payload.task_id = waiting.id
        )
        INSERT INTO task_events (task_id, seq, type, data)
        SELECT id, version, 'status', jsonb_build_object('status', 'scheduled', 'retried', true) FROM waiting;
    END LOOP;
    RETURN NULL;
END $$
"""

REOPEN_TRIGGER = """
CREATE TRIGGER tasks_reopen_workflow AFTER UPDATE OF finished_at ON tasks FOR EACH ROW
WHEN (old.finished_at IS NOT NULL AND new.finished_at IS NULL AND new.workflow_id IS NOT NULL AND new.status = 'queued')
EXECUTE FUNCTION taskmill_reopen_workflow()
"""

FOLLOW_ENDS = """
CREATE OR REPLACE FUNCTION taskmill_follow_ends(ended uuid[]) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM taskmill_advance_workflows(ended);
    PERFORM taskmill_finish_batches(ended);
END $$
"""

NOTE_END = """
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

NOTE_END_TRIGGER = """
CREATE OR REPLACE TRIGGER tasks_note_end AFTER UPDATE OF finished_at ON tasks FOR EACH ROW
WHEN (old.finished_at IS NULL AND new.finished_at IS NOT NULL AND (new.workflow_id IS NOT NULL OR new.batch_id IS NOT NULL))
EXECUTE FUNCTION taskmill_note_end()
"""

OLD_FOLLOW_ENDS = """
CREATE OR REPLACE FUNCTION taskmill_follow_ends(ended uuid[]) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM taskmill_finish_batches(ended);
END $$
"""

OLD_NOTE_END = """
CREATE OR REPLACE FUNCTION taskmill_note_end() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF new.batch_id IS NOT NULL AND EXISTS (SELECT FROM batch_follow_ups AS batch WHERE batch.batch_id = new.batch_id) THEN
        PERFORM set_config('taskmill.ended',
            concat_ws(',', nullif(current_setting('taskmill.ended', true), ''), new.id::text), true);
    END IF;
    RETURN NULL;
END $$
"""

OLD_NOTE_END_TRIGGER = """
CREATE OR REPLACE TRIGGER tasks_note_end AFTER UPDATE OF finished_at ON tasks FOR EACH ROW
WHEN (old.finished_at IS NULL AND new.finished_at IS NOT NULL AND new.batch_id IS NOT NULL)
EXECUTE FUNCTION taskmill_note_end()
"""


def upgrade() -> None:
    op.add_column("tasks", sa.Column("workflow_id", sa.Uuid(), nullable=True))
    op.add_column("tasks", sa.Column("workflow_step", sa.Text(), nullable=True))
    op.drop_constraint(op.f("ck_tasks_scheduled_for_a_time"), "tasks")
    # The next migration validates it: until then, only new rows are checked.
    op.execute(
        "ALTER TABLE tasks ADD CONSTRAINT ck_tasks_scheduled_for_a_time "
        "CHECK (status <> 'scheduled' OR run_at IS NOT NULL OR workflow_id IS NOT NULL) NOT VALID"
    )
    op.create_table(
        "workflows",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("organization_id", sa.Uuid(), nullable=False),
        sa.Column("owner_id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.Text(), nullable=True),
        sa.Column("status", sa.Text(), server_default="running", nullable=False),
        sa.Column("schedule_id", sa.Uuid(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("cancel_requested_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "status IN ('running', 'succeeded', 'failed', 'cancelled')", name=op.f("ck_workflows_known_status")
        ),
        sa.CheckConstraint("(status = 'running') = (finished_at IS NULL)", name=op.f("ck_workflows_finished_iff_done")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_workflows")),
    )
    op.create_index("ix_workflows_organization", "workflows", ["organization_id", sa.literal_column("id DESC")])
    op.create_table(
        "workflow_steps",
        sa.Column("workflow_id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("place", sa.SmallInteger(), nullable=False),
        sa.Column("position", sa.SmallInteger(), nullable=False),
        sa.Column("after", sa.ARRAY(sa.Text()), nullable=False),
        sa.Column("on_failure", sa.Text(), server_default="cancel", nullable=False),
        sa.Column("submission", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("refs", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("for_each", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("task_id", sa.Uuid(), nullable=True),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("upstream_failed", sa.Boolean(), server_default="false", nullable=False),
        sa.Column("error", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "status IN ('waiting', 'running', 'succeeded', 'failed', 'cancelled', 'expired')",
            name=op.f("ck_workflow_steps_known_status"),
        ),
        sa.CheckConstraint("on_failure IN ('cancel', 'continue')", name=op.f("ck_workflow_steps_known_on_failure")),
        sa.CheckConstraint(
            "(for_each IS NULL) = (task_id IS NOT NULL)", name=op.f("ck_workflow_steps_one_task_or_for_each")
        ),
        sa.ForeignKeyConstraint(
            ["workflow_id"], ["workflows.id"], name=op.f("fk_workflow_steps_workflow_id_workflows"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("workflow_id", "name", name=op.f("pk_workflow_steps")),
        sa.UniqueConstraint("workflow_id", "place", name=op.f("uq_workflow_steps_workflow_id_place")),
    )
    op.drop_constraint(op.f("ck_tombstones_known_subject"), "tombstones")
    op.create_check_constraint(
        op.f("ck_tombstones_known_subject"), "tombstones", "subject IN ('task', 'file', 'workflow')"
    )
    for statement in (
        move_trigger(MOVES),
        insert_tasks(
            "task_id uuid, workflow_id uuid, workflow_step text, ",
            "workflow_id, workflow_step, ",
            "coalesce(given.task_id, uuidv7())",
        ),
        FIND_VALUE,
        RESOLVE,
        END_STEP,
        START_STEP,
        LETS_GO_ON,
        ADVANCE,
        ADVANCE_ALL,
        REOPEN,
        REOPEN_TRIGGER,
        FOLLOW_ENDS,
        NOTE_END,
        NOTE_END_TRIGGER,
    ):
        op.execute(statement)


def downgrade() -> None:
    for statement in (
        "DROP TRIGGER tasks_reopen_workflow ON tasks",
        OLD_NOTE_END_TRIGGER,
        OLD_NOTE_END,
        OLD_FOLLOW_ENDS,
        move_trigger(OLD_MOVES),
        insert_tasks("", "", "uuidv7()"),
        "DROP FUNCTION taskmill_reopen_workflow()",
        "DROP FUNCTION taskmill_advance_workflows(uuid[])",
        "DROP FUNCTION taskmill_advance_workflow(uuid)",
        "DROP FUNCTION taskmill_lets_go_on(workflow_steps)",
        "DROP FUNCTION taskmill_start_step(workflow_steps)",
        "DROP FUNCTION taskmill_end_unstarted_step(workflow_steps, text, jsonb, boolean)",
        "DROP FUNCTION taskmill_resolve_params(workflow_steps, jsonb)",
        "DROP FUNCTION taskmill_find_step_value(uuid, text, text[])",
    ):
        op.execute(statement)
    op.execute("DELETE FROM tombstones WHERE subject = 'workflow'")
    op.drop_constraint(op.f("ck_tombstones_known_subject"), "tombstones")
    op.create_check_constraint(op.f("ck_tombstones_known_subject"), "tombstones", "subject IN ('task', 'file')")
    op.drop_table("workflow_steps")
    op.drop_table("workflows")
    op.drop_constraint(op.f("ck_tasks_scheduled_for_a_time"), "tasks")
    # A step that waits could never start.
    op.execute(
        "UPDATE tasks SET status = 'cancelled', finished_at = now(), purge_at = now(), version = version + 1 "
        "WHERE status = 'scheduled' AND run_at IS NULL"
    )
    op.create_check_constraint(
        op.f("ck_tasks_scheduled_for_a_time"), "tasks", "status <> 'scheduled' OR run_at IS NOT NULL"
    )
    op.drop_column("tasks", "workflow_step")
    op.drop_column("tasks", "workflow_id")
