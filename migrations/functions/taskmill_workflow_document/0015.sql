-- Return a workflow as a webhook shows it.
CREATE OR REPLACE FUNCTION taskmill_workflow_document(workflow workflows) RETURNS json LANGUAGE sql STABLE AS $$
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
