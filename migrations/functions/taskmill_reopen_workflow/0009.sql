-- Trigger: reopen a workflow when a caller retries one of its steps. The steps after it that were never started wait again.
-- Raises TM002 for a step that may not be retried yet; its message is shown to the caller.
CREATE OR REPLACE FUNCTION taskmill_reopen_workflow() RETURNS trigger LANGUAGE plpgsql AS $$
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
            RAISE EXCEPTION 'The step %, which comes before this one, has not succeeded. Retry that step: this one starts when it has '
                'succeeded.', unfinished
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
