-- Submit the task that sends a delivery, and return its id. Its owner is the receiver, so that receivers take turns.
CREATE OR REPLACE FUNCTION taskmill_start_delivery(given uuid) RETURNS uuid LANGUAGE sql AS $$
    UPDATE webhook_deliveries AS delivery SET state = 'pending', next_try_at = NULL, finished_at = NULL,
        send_task_id = (taskmill_insert_tasks(jsonb_build_array(jsonb_build_object(
            'kind', 'webhooks.deliver', 'kind_version', 1, 'queue', 'webhooks', 'status', 'queued',
            'organization_id', '00000000-0000-7000-8000-000000000000', 'owner_id', delivery.receiver_id,
            'priority', 5, 'max_attempts', 200, 'timeout_seconds', 60, 'keep_seconds', 86400,
            'params', jsonb_build_object('delivery_id', delivery.id)))))[1]
    WHERE delivery.id = given RETURNING delivery.send_task_id
$$
