-- Return a workflow as `GET /workflows/<id>` shows it: the `data` of a webhook.
CREATE OR REPLACE FUNCTION taskmill_workflow_document(workflow workflows) RETURNS json LANGUAGE sql STABLE AS $$
    WITH counted AS MATERIALIZED (
        SELECT by_status.step, jsonb_object_agg(by_status.status, by_status.tasks) AS counts, sum(by_status.tasks) AS total,
            max(by_status.finished_at) AS finished_at
        FROM (SELECT task.workflow_step AS step, task.status, count(*) AS tasks, max(task.finished_at) AS finished_at
            FROM tasks AS task WHERE task.workflow_id = workflow.id GROUP BY task.workflow_step, task.status) AS by_status
        GROUP BY by_status.step
    )
    SELECT json_build_object('id', workflow.id, 'name', workflow.name, 'status', workflow.status,
        'done', workflow.finished_at IS NOT NULL,
        'step_counts', (SELECT json_object_agg(by_status.status, by_status.steps) FROM (
            SELECT status, count(*) AS steps FROM workflow_steps WHERE workflow_id = workflow.id GROUP BY status) AS by_status),
        'schedule_id', workflow.schedule_id, 'created_at', taskmill_timestamp(workflow.created_at),
        'cancel_requested_at', taskmill_timestamp(workflow.cancel_requested_at),
        'finished_at', taskmill_timestamp(workflow.finished_at),
        'links', json_build_object('self', '/workflows/' || workflow.id, 'cancel', '/workflows/' || workflow.id || '/cancel',
            'tasks', '/tasks?workflow_id=' || workflow.id),
        'steps', (SELECT json_agg(json_build_object('name', step.name, 'kind', step.submission->>'kind',
                'status', coalesce(task.status, CASE step.status WHEN 'waiting' THEN 'scheduled' ELSE step.status END),
                'after', to_json(step.after), 'on_failure', step.on_failure, 'for_each', step.for_each->>'written',
                'task_id', step.task_id,
                'tasks', CASE WHEN step.for_each IS NOT NULL AND step.started_at IS NOT NULL
                    THEN json_build_object('total', coalesce(counted.total, 0), 'counts', coalesce(counted.counts, '{}')) END,
                'error', step.error,
                'started_at', taskmill_timestamp(
                    coalesce(task.started_at, CASE WHEN step.for_each IS NOT NULL THEN step.started_at END)),
                'finished_at', taskmill_timestamp(coalesce(task.finished_at,
                    CASE WHEN step.status NOT IN ('waiting', 'running') THEN counted.finished_at END))) ORDER BY step.position)
            FROM workflow_steps AS step LEFT JOIN tasks AS task ON task.id = ANY (ARRAY[step.task_id])
            LEFT JOIN counted ON counted.step = step.name WHERE step.workflow_id = workflow.id))
$$
