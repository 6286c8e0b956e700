-- Return a batch as `GET /batches/<id>` shows it: the `data` of a webhook. A batch without `on_finished` does not show it.
CREATE OR REPLACE FUNCTION taskmill_batch_document(given uuid) RETURNS json LANGUAGE sql STABLE AS $$
    SELECT (jsonb_build_object('id', given, 'total', sum(counted.tasks),
            'counts', jsonb_object_agg(counted.status, counted.tasks), 'created_at', taskmill_timestamp(min(counted.created_at)),
            'finished_at', taskmill_timestamp(max(counted.finished_at)))
        || coalesce((
            SELECT jsonb_build_object('on_finished',
                jsonb_build_object('kind', follow_up.on_finished->>'kind', 'task_id', follow_up.task_id))
            FROM batch_follow_ups AS follow_up WHERE follow_up.batch_id = given), '{}'))::json
    FROM (SELECT status, count(*) AS tasks, min(created_at) AS created_at, max(finished_at) AS finished_at
        FROM tasks WHERE batch_id = given GROUP BY status) AS counted
$$
