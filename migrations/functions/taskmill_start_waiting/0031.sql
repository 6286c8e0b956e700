-- Start waiting deliveries of a receiver, as many as there is room for. The receiver must be locked. Slow receivers share their
-- room, so the delivery that is started may be another receiver's.
CREATE OR REPLACE FUNCTION taskmill_start_waiting(receiver uuid, besides uuid) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    room bigint;
BEGIN
    IF EXISTS (SELECT FROM slow_receivers AS slow WHERE slow.receiver_id = receiver) THEN
        PERFORM taskmill_start_slow(besides);
        RETURN;
    END IF;
    room := taskmill_receiver_bound(receiver) - taskmill_count_sending(receiver, besides) - (
        SELECT count(*) FROM webhook_deliveries AS delivery WHERE delivery.receiver_id = receiver
            AND delivery.state = 'pending' AND delivery.finished_at IS NULL AND delivery.next_try_at IS NULL
            AND delivery.id <> besides);
    IF room > 0 THEN
        PERFORM taskmill_start_deliveries(ARRAY(
            SELECT delivery.id FROM webhook_deliveries AS delivery WHERE delivery.receiver_id = receiver
                AND delivery.state = 'waiting' AND delivery.finished_at IS NULL
            ORDER BY delivery.id LIMIT room FOR UPDATE));
    END IF;
END $$
