-- Count the deliveries that are being sent to a receiver, besides one.
CREATE OR REPLACE FUNCTION taskmill_count_sending(receiver uuid, besides uuid) RETURNS bigint LANGUAGE sql STABLE AS $$
    SELECT count(*) FROM webhook_deliveries AS delivery JOIN tasks AS task ON task.id = ANY (ARRAY[delivery.send_task_id])
    WHERE delivery.receiver_id = receiver AND delivery.state = 'sending' AND delivery.finished_at IS NULL
        AND task.status = 'running' AND delivery.id <> besides
$$
