-- Return how many deliveries may be sent to a receiver at a time: fewer while it is failing.
CREATE OR REPLACE FUNCTION taskmill_receiver_bound(receiver uuid) RETURNS integer LANGUAGE sql STABLE AS $$
    SELECT CASE WHEN EXISTS (SELECT FROM webhook_endpoints AS endpoint
        WHERE endpoint.id = receiver AND endpoint.failing_since IS NOT NULL) THEN 1 ELSE 4 END
$$
