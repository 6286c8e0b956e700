-- Return a task as `GET /tasks/<id>` shows it, without its params: the `data` of a webhook.
CREATE OR REPLACE FUNCTION taskmill_task_document(given uuid) RETURNS json LANGUAGE sql STABLE AS $$
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
        'rerun_of', task.rerun_of, 'parent_id', task.parent_id, 'schedule_id', task.schedule_id,
        'concurrency', task.key_limits->'concurrency', 'rate', task.key_limits->'rate',
        'created_at', taskmill_timestamp(task.created_at), 'run_at', taskmill_timestamp(task.run_at),
        'started_at', taskmill_timestamp(task.started_at), 'finished_at', taskmill_timestamp(task.finished_at),
        'cancel_requested_at', taskmill_timestamp(task.cancel_requested_at), 'purge_at', taskmill_timestamp(task.purge_at),
        'links', json_build_object('self', '/tasks/' || task.id, 'events', '/tasks/' || task.id || '/events',
            'cancel', '/tasks/' || task.id || '/cancel', 'rerun', '/tasks/' || task.id || '/rerun',
            'reruns', '/tasks?rerun_of=' || task.id))
    FROM tasks AS task JOIN task_payloads AS payload ON payload.task_id = ANY (ARRAY[task.id])
    WHERE task.id = given
$$
