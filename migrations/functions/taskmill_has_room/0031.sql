-- Return whether a delivery may be sent to its receiver now. The receiver must be locked.
CREATE OR REPLACE FUNCTION taskmill_has_room(receiver uuid, delivery uuid) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    IF taskmill_count_sending(receiver, delivery) >= taskmill_receiver_bound(receiver) THEN
        RETURN false;
    END IF;
    RETURN NOT EXISTS (SELECT FROM slow_receivers AS slow WHERE slow.receiver_id = receiver)
        OR taskmill_slow_room(delivery) > 0;
END $$
