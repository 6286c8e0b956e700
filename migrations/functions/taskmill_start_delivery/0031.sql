-- Submit the task that sends a delivery, and return its id.
CREATE OR REPLACE FUNCTION taskmill_start_delivery(given uuid) RETURNS uuid LANGUAGE plpgsql AS $$
BEGIN
    PERFORM taskmill_start_deliveries(ARRAY[given]);
    RETURN (SELECT delivery.send_task_id FROM webhook_deliveries AS delivery WHERE delivery.id = given);
END $$
