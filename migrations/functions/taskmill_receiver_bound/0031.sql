-- Return how many deliveries may be sent to a receiver at a time: fewer while it is failing or slow.
CREATE OR REPLACE FUNCTION taskmill_receiver_bound(receiver uuid) RETURNS integer LANGUAGE sql STABLE AS $$
    SELECT CASE WHEN EXISTS (SELECT FROM webhook_endpoints AS endpoint
            WHERE endpoint.id = receiver AND endpoint.failing_since IS NOT NULL)
        OR EXISTS (SELECT FROM slow_receivers AS slow WHERE slow.receiver_id = receiver) THEN 1 ELSE 4 END
$$
