-- Return the value at a path in what a step has made: `status`, `artifacts`, and `result` and `error`, or with `for_each`
-- `results`. NULL if there is none.
CREATE OR REPLACE FUNCTION taskmill_find_step_value(of_workflow uuid, of_step text, path text[]) RETURNS jsonb LANGUAGE plpgsql STABLE AS $$
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
