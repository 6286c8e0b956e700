-- Start a step that waits: queue or schedule its task, or with `for_each` submit one for each element. A step whose
-- references cannot be resolved fails. Return the new status of the step.
CREATE OR REPLACE FUNCTION taskmill_start_step(step workflow_steps) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    shared workflow_steps := step;
    items jsonb := '[null]';
    submissions jsonb[] := '{}';
    size bigint := 0;
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
            problem := format('for_each refers to %s, which does not exist.', step.for_each->>'written');
        ELSIF jsonb_typeof(items) <> 'array' THEN
            problem := format('for_each refers to %s, which is not a list.', step.for_each->>'written');
        ELSIF jsonb_array_length(items) > 1000 THEN
            problem := format('for_each refers to %s, which has %s elements: a step may have at most 1,000 tasks.',
                step.for_each->>'written', jsonb_array_length(items));
        ELSIF (SELECT count(*) FROM tasks AS task WHERE task.workflow_id = step.workflow_id) + jsonb_array_length(items) > 10000 THEN
            problem := format('for_each refers to %s, which has %s elements, with which the workflow would have more than 10,000 tasks.',
                step.for_each->>'written', jsonb_array_length(items));
        ELSE
            -- What is the same for each element is resolved once.
            shared.refs := jsonb_path_query_array(step.refs, '$[*] ? (@.source != "item")');
            SELECT * INTO resolved FROM taskmill_resolve_params(shared, NULL);
            problem := resolved.problem;
            shared.submission := step.submission || jsonb_build_object('params', resolved.params, 'files', resolved.files);
            shared.refs := jsonb_path_query_array(step.refs, '$[*] ? (@.source == "item")');
        END IF;
    END IF;
    IF problem IS NULL THEN
        FOR item IN SELECT each.value FROM jsonb_array_elements(items) WITH ORDINALITY AS each (value, place) ORDER BY each.place
        LOOP
            SELECT * INTO resolved FROM taskmill_resolve_params(shared, item.value);
            problem := resolved.problem;
            EXIT WHEN problem IS NOT NULL;
            size := size + octet_length(resolved.params::text);
            IF size > 16777216 THEN
                problem := 'With the values of the steps before it, the params of its tasks are larger than 16 MiB together.';
                EXIT;
            END IF;
            submissions := array_append(submissions, step.submission || jsonb_build_object(
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
        status = CASE WHEN submissions = '{}' THEN 'succeeded' ELSE 'running' END
    WHERE workflow_id = step.workflow_id AND name = step.name;
    IF step.for_each IS NOT NULL THEN
        PERFORM taskmill_insert_tasks(to_jsonb(submissions));
        RETURN CASE WHEN submissions = '{}' THEN 'succeeded' ELSE 'running' END;
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
EXCEPTION
    WHEN SQLSTATE '23Q01' THEN
        PERFORM taskmill_end_unstarted_step(step, 'failed', jsonb_build_object('type', '/problems/quota-exceeded',
            'title', 'Quota exceeded', 'detail', format('Its tasks were not submitted: %s. Retry the step when there is room '
                'again.', sqlerrm), 'retryable', false, 'attempt', 0, 'data', '{}'::jsonb), false);
        RETURN 'failed';
    -- An error would keep the task before this step from ending.
    WHEN data_exception OR program_limit_exceeded THEN
        PERFORM taskmill_end_unstarted_step(step, 'failed', jsonb_build_object('type', '/problems/unresolved-reference',
            'title', 'Unresolved reference', 'detail', 'The values of the steps before it cannot be stored as its params: '
                || sqlerrm, 'retryable', false, 'attempt', 0, 'data', '{}'::jsonb), false);
        RETURN 'failed';
END $$
