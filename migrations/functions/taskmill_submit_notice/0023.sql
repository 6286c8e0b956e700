-- Submit the email of `notify` about a task that ended. If a quota does not allow it, the log of the task says so.
CREATE OR REPLACE FUNCTION taskmill_submit_notice(subject uuid, submission jsonb) RETURNS void LANGUAGE plpgsql AS $$
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
            'text', format(E'The task %s of the kind %s %s at %s.\n', task.id, task.kind,
                    CASE task.status WHEN 'cancelled' THEN 'was cancelled' ELSE task.status END,
                    taskmill_timestamp(task.finished_at))
                || CASE WHEN task.status <> 'succeeded' AND error IS NOT NULL
                    THEN format(E'\n%s: %s\n', error->>'title', coalesce(error->>'detail', error->>'type')) ELSE '' END
                || CASE WHEN task.tags <> '{}' THEN format(E'\nTags: %s\n', array_to_string(task.tags, ', ')) ELSE '' END
                || format(E'\nIts result and history: GET /tasks/%s\n', task.id)))));
EXCEPTION
    WHEN SQLSTATE '23Q01' THEN
        WITH raised AS (UPDATE tasks SET version = version + 1 WHERE id = subject RETURNING id, version)
        INSERT INTO task_events (task_id, seq, type, data)
        SELECT id, version, 'log', jsonb_build_object('level', 'warning', 'fields', '{}'::jsonb, 'text',
            format('The email about the end of the task was not sent: %s.', sqlerrm)) FROM raised;
END $$
