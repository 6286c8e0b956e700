-- Insert tasks from rows of `shared.tasks.submission.submission_document`, and return their ids. It is the way to submit
-- tasks inside the database; requests submit by `shared.queries.hot_tasks`.
CREATE OR REPLACE FUNCTION taskmill_insert_tasks(submissions jsonb) RETURNS uuid[] LANGUAGE plpgsql AS $$
DECLARE
    ids uuid[];
    notices bigint;
BEGIN
    WITH submitted AS MATERIALIZED (
        SELECT coalesce(given.task_id, uuidv7()) AS new_id, given.* FROM jsonb_to_recordset(submissions) AS given (
            task_id uuid, workflow_id uuid, workflow_step text, kind text, kind_version int2, queue text, status text,
            organization_id uuid, owner_id uuid, api_key_id uuid, priority int2, max_attempts int2,
            timeout_seconds int, keep_seconds int, run_at timestamptz, delay float8, ttl int, batch_id uuid, parent_id uuid,
            schedule_id uuid, traceparent text, request_id text, tags text, metadata jsonb, params jsonb, files jsonb,
            follow_up jsonb, backoff jsonb, key_limits jsonb)
    ),
    task AS (
        INSERT INTO tasks (id, workflow_id, workflow_step, kind, kind_version, queue, status, organization_id, owner_id,
            api_key_id, priority, max_attempts, timeout_seconds, keep_seconds, run_at, ttl, expires_at, batch_id,
            parent_id, schedule_id, traceparent, request_id, tags, metadata, backoff, key_limits)
        SELECT new_id, workflow_id, workflow_step, kind, kind_version, queue, status, organization_id, owner_id,
            api_key_id, priority, max_attempts, timeout_seconds, keep_seconds, coalesce(run_at, now() + delay * interval '1 second'),
            ttl, now() + ttl * interval '1 second', batch_id, parent_id, schedule_id, traceparent,
            request_id, coalesce(tags, '{}')::text[], coalesce(metadata, '{}'), backoff, key_limits
        FROM submitted
    ),
    payload AS (INSERT INTO task_payloads (task_id, params) SELECT new_id, params FROM submitted),
    event AS (
        INSERT INTO task_events (task_id, seq, type, data)
        SELECT new_id, 1, 'status', jsonb_build_object('status', status) FROM submitted
    ),
    -- A file that was deleted since the submission is left out: the attempt then fails, and says which file is gone.
    locked_file AS MATERIALIZED (
        SELECT file.id FROM files AS file WHERE file.id IN (
            SELECT input.file_id::uuid
            FROM submitted CROSS JOIN LATERAL jsonb_array_elements_text(submitted.files) AS input (file_id))
        ORDER BY file.id FOR KEY SHARE
    ),
    input_file AS (
        INSERT INTO task_files (task_id, file_id, role, position)
        SELECT submitted.new_id, locked_file.id, 'input', min(input.position)
        FROM submitted CROSS JOIN LATERAL jsonb_array_elements_text(submitted.files) WITH ORDINALITY
            AS input (file_id, position) JOIN locked_file ON locked_file.id = input.file_id::uuid
        GROUP BY submitted.new_id, locked_file.id
    ),
    follow_up AS (
        INSERT INTO task_follow_ups (task_id, webhook_url, webhook_secret, notify)
        SELECT new_id, follow_up->>'webhook_url', follow_up->>'webhook_secret', follow_up->'notify' FROM submitted
        WHERE follow_up IS NOT NULL
    ),
    notice AS (
        SELECT pg_notify('taskmill_due', string_agg(DISTINCT queue, ',')) FROM submitted
        WHERE status = 'queued' HAVING count(*) > 0
    )
    -- The notice is only sent if its rows are read.
    SELECT array_agg(submitted.new_id ORDER BY submitted.new_id), (SELECT count(*) FROM notice) INTO ids, notices FROM submitted;
    RETURN coalesce(ids, '{}');
END $$
