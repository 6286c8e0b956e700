-- Return a schedule as `GET /schedules/<id>` shows it: the `data` of a webhook. SQL can compute neither the rule in plain words
-- nor the next times: beat stores them in `failure_details` when it stores why a slot has no task.
CREATE OR REPLACE FUNCTION taskmill_schedule_document(schedule schedules) RETURNS json LANGUAGE sql STABLE AS $$
    SELECT json_build_object('id', schedule.id, 'name', schedule.name, 'enabled', schedule.enabled, 'cron', schedule.cron,
        'every', schedule.every_seconds, 'timezone', schedule.timezone,
        'starts_at', taskmill_timestamp(schedule.starts_at), 'ends_at', taskmill_timestamp(schedule.ends_at),
        'missed', schedule.missed, 'overlap', schedule.overlap, 'jitter', schedule.jitter_seconds,
        'description', schedule.failure_details->>'description',
        'kind', CASE WHEN schedule.workflow IS NULL THEN schedule.kind END, 'params', taskmill_mask_secrets(schedule.params),
        'workflow', taskmill_mask_secrets(schedule.workflow->'definition'),
        'priority', coalesce((schedule.options->>'priority')::int, 5), 'ttl', schedule.options->'ttl',
        'max_attempts', schedule.options->'max_attempts', 'timeout', schedule.options->'timeout',
        'keep_for', coalesce((schedule.options->>'keep_for')::int, 604800),
        'tags', coalesce(schedule.options->'tags', '[]'), 'metadata', coalesce(schedule.options->'metadata', '{}'),
        'backoff', schedule.options->'backoff', 'concurrency', schedule.options->'concurrency', 'rate', schedule.options->'rate',
        'webhook', CASE WHEN schedule.follow_up ? 'webhook_url'
            THEN json_build_object('url', schedule.follow_up->>'webhook_url') END,
        'notify', CASE WHEN schedule.follow_up ? 'notify'
            THEN json_build_object('email', schedule.follow_up#>'{notify,submission,params,to}',
                'on', schedule.follow_up#>'{notify,on}') END,
        'next_at', CASE WHEN schedule.enabled THEN taskmill_timestamp(schedule.next_at) END,
        'next_times', coalesce((
            SELECT json_agg(taskmill_timestamp(one.moment::timestamptz) ORDER BY one.place)
            FROM jsonb_array_elements_text(schedule.failure_details->'next_times') WITH ORDINALITY AS one (moment, place)), '[]'),
        'last_runs', coalesce((
            SELECT json_agg(json_build_object('at', taskmill_timestamp(run.slot), 'task_id', run.task_id,
                'workflow_id', task.workflow_id, 'status', coalesce(workflow.status, task.status)) ORDER BY run.slot DESC)
            FROM (SELECT slot, task_id FROM schedule_slots WHERE schedule_id = schedule.id ORDER BY slot DESC LIMIT 10) AS run
            LEFT JOIN tasks AS task ON task.id = ANY (ARRAY[run.task_id])
            LEFT JOIN workflows AS workflow ON workflow.id = ANY (ARRAY[task.workflow_id])), '[]'),
        'last_error', schedule.last_error,
        'created_at', taskmill_timestamp(schedule.created_at), 'updated_at', taskmill_timestamp(schedule.updated_at),
        'links', json_build_object('self', '/schedules/' || schedule.id, 'run', '/schedules/' || schedule.id || '/run'))
$$
