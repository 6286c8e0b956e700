-- Return a batch as the API shows it: the `data` of a webhook.
CREATE OR REPLACE FUNCTION taskmill_batch_document(given uuid) RETURNS json LANGUAGE sql STABLE AS $$
    SELECT json_build_object('id', given, 'total', sum(counted.tasks),
        'counts', json_object_agg(counted.status, counted.tasks), 'created_at', taskmill_timestamp(min(counted.created_at)),
        'finished_at', taskmill_timestamp(max(counted.finished_at)))
    FROM (SELECT status, count(*) AS tasks, min(created_at) AS created_at, max(finished_at) AS finished_at
        FROM tasks WHERE batch_id = given GROUP BY status) AS counted
$$
