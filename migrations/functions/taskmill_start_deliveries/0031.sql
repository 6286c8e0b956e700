-- Submit the tasks that send deliveries. The owner of each task is its receiver, so that receivers take turns.
CREATE OR REPLACE FUNCTION taskmill_start_deliveries(given uuid[]) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    submissions jsonb;
BEGIN
    WITH started AS (
        UPDATE webhook_deliveries AS delivery
        SET state = 'pending', next_try_at = NULL, finished_at = NULL, send_task_id = uuidv7()
        WHERE delivery.id = ANY (given) RETURNING delivery.id, delivery.send_task_id, delivery.receiver_id
    )
    SELECT jsonb_agg(jsonb_build_object(
        'task_id', started.send_task_id, 'kind', 'webhooks.deliver', 'kind_version', 1, 'queue', 'webhooks',
        'status', 'queued', 'organization_id', '00000000-0000-7000-8000-000000000000', 'owner_id', started.receiver_id,
        'priority', 5, 'max_attempts', 200, 'timeout_seconds', 60, 'keep_seconds', 86400,
        'params', jsonb_build_object('delivery_id', started.id))) INTO submissions
    FROM started;
    IF submissions IS NOT NULL THEN
        PERFORM taskmill_insert_tasks(submissions);
    END IF;
END $$
