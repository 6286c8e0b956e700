-- Record that a delivery failed because the task that sends it ended without success.
CREATE OR REPLACE FUNCTION taskmill_abandon_delivery(given uuid) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    receiver uuid := (SELECT delivery.receiver_id FROM webhook_deliveries AS delivery WHERE delivery.id = given
        AND delivery.finished_at IS NULL);
BEGIN
    IF receiver IS NOT NULL THEN
        PERFORM pg_advisory_xact_lock(hashtextextended(receiver::text, 0));
        -- The update below must see the task of a redelivery that this lock has waited for.
        PERFORM FROM webhook_deliveries WHERE id = given FOR NO KEY UPDATE;
        UPDATE webhook_deliveries AS delivery SET state = 'failed', next_try_at = NULL, finished_at = now()
        WHERE delivery.id = given AND delivery.state IN ('pending', 'sending') AND NOT EXISTS (SELECT FROM tasks AS task
            WHERE task.id = ANY (ARRAY[delivery.send_task_id]) AND task.finished_at IS NULL);
        PERFORM taskmill_start_waiting(receiver, given);
    END IF;
END $$
