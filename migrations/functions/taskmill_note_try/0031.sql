-- Note whether a receiver is slow. The receiver must be locked, and the end of the try must be stored.
CREATE OR REPLACE FUNCTION taskmill_note_try(receiver uuid, delivery uuid, is_slow boolean) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF is_slow THEN
        INSERT INTO slow_receivers AS slow (receiver_id) VALUES (receiver)
        ON CONFLICT (receiver_id) DO UPDATE SET last_try_at = now();
    ELSIF EXISTS (SELECT FROM slow_receivers AS slow WHERE slow.receiver_id = receiver) THEN
        DELETE FROM slow_receivers AS slow WHERE slow.receiver_id = receiver;
        PERFORM taskmill_start_slow(delivery);
    END IF;
END $$
