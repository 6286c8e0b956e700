-- Store a delivery for each enabled endpoint of an organization that an event matches, and start it.
CREATE OR REPLACE FUNCTION taskmill_submit_webhooks(
    organization uuid, type text, subject_task uuid, subject_kind text, subject_tags text[], document json
) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    delivery record;
BEGIN
    FOR delivery IN
        INSERT INTO webhook_deliveries (id, organization_id, endpoint_id, task_id, event_type, data, receiver_id, give_up_at)
        SELECT uuidv7(), organization, endpoint.id, subject_task, type, document, endpoint.id, now() + interval '3 days'
        FROM webhook_endpoints AS endpoint
        WHERE endpoint.organization_id = organization AND endpoint.enabled AND type = ANY (endpoint.event_types)
            AND (subject_kind IS NULL OR endpoint.kinds = '{}' OR subject_kind = ANY (endpoint.kinds))
            AND (subject_tags IS NULL OR endpoint.tags = '{}' OR endpoint.tags && subject_tags)
        RETURNING id
    LOOP
        PERFORM taskmill_start_delivery(delivery.id);
    END LOOP;
END $$
