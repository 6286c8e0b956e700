-- Return how many more deliveries may be sent to slow receivers, besides one: all of them together have four at a time. Waits
-- until no other transaction starts or ends a try at a slow receiver.
CREATE OR REPLACE FUNCTION taskmill_slow_room(besides uuid) RETURNS bigint LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended('slow receivers', 0));
    RETURN 4 - (SELECT count(*) FROM slow_receivers AS slow
        JOIN webhook_deliveries AS delivery ON delivery.receiver_id = slow.receiver_id
        JOIN tasks AS task ON task.id = ANY (ARRAY[delivery.send_task_id])
        WHERE delivery.state = 'sending' AND delivery.finished_at IS NULL AND task.status = 'running' AND delivery.id <> besides);
END $$
