-- Start waiting deliveries of slow receivers, as many as there is room for: one of each receiver, and first of that one whose last
-- try is the longest ago.
CREATE OR REPLACE FUNCTION taskmill_start_slow(besides uuid) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    room bigint := taskmill_slow_room(besides) - (
        SELECT count(*) FROM slow_receivers AS slow
        JOIN webhook_deliveries AS delivery ON delivery.receiver_id = slow.receiver_id
        WHERE delivery.state = 'pending' AND delivery.finished_at IS NULL AND delivery.next_try_at IS NULL
            AND delivery.id <> besides);
BEGIN
    IF room > 0 THEN
        -- A row that is locked is left to the transaction that locked it. Waiting for it could deadlock.
        PERFORM taskmill_start_deliveries(ARRAY(
            SELECT first.id FROM slow_receivers AS slow CROSS JOIN LATERAL (
                SELECT waiting.id FROM webhook_deliveries AS waiting
                WHERE waiting.receiver_id = slow.receiver_id AND waiting.state = 'waiting' AND waiting.finished_at IS NULL
                ORDER BY waiting.id LIMIT 1 FOR UPDATE SKIP LOCKED) AS first
            WHERE NOT EXISTS (SELECT FROM webhook_deliveries AS other
                WHERE other.receiver_id = slow.receiver_id AND other.finished_at IS NULL AND other.id <> besides
                    AND (other.state = 'sending' OR (other.state = 'pending' AND other.next_try_at IS NULL)))
            ORDER BY slow.last_try_at LIMIT room));
    END IF;
END $$
