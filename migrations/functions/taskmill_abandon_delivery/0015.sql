-- Record that a delivery failed because the task that sends it ended without success.
CREATE OR REPLACE FUNCTION taskmill_abandon_delivery(given uuid) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    receiver uuid := (SELECT delivery.receiver_id FROM webhook_deliveries AS delivery WHERE delivery.id = given
        AND delivery.finished_at IS NULL);
BEGIN
    IF receiver IS NOT NULL THEN
        PERFORM pg_advisory_xact_lock(hashtextextended(receiver::text, 0));
        UPDATE webhook_deliveries SET state = 'failed', next_try_at = NULL, finished_at = now()
        WHERE id = given AND state IN ('pending', 'sending');
        PERFORM taskmill_start_waiting(receiver, given);
    END IF;
END $$
