-- Start waiting deliveries of a receiver, as many as there is room for. The receiver must be locked.
CREATE OR REPLACE FUNCTION taskmill_start_waiting(receiver uuid, besides uuid) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    room bigint := taskmill_receiver_bound(receiver) - taskmill_count_sending(receiver, besides) - (
        SELECT count(*) FROM webhook_deliveries AS delivery WHERE delivery.receiver_id = receiver
            AND delivery.state = 'pending' AND delivery.finished_at IS NULL AND delivery.next_try_at IS NULL
            AND delivery.id <> besides);
    waiting record;
BEGIN
    IF room > 0 THEN
        FOR waiting IN
            SELECT delivery.id FROM webhook_deliveries AS delivery WHERE delivery.receiver_id = receiver
                AND delivery.state = 'waiting' AND delivery.finished_at IS NULL
            ORDER BY delivery.id LIMIT room FOR UPDATE
        LOOP
            PERFORM taskmill_start_delivery(waiting.id);
        END LOOP;
    END IF;
END $$
