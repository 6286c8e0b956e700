-- Store a delivery for each enabled endpoint of an organization that an event matches, and start them.
CREATE OR REPLACE FUNCTION taskmill_submit_webhooks(
    organization uuid, type text, subject_task uuid, subject_kind text, subject_tags text[], document json
) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    stored_ids uuid[];
BEGIN
    -- An endpoint that another transaction is deleting is waited for, and left out: its deliveries could not be stored.
    WITH matching AS MATERIALIZED (
        SELECT endpoint.id FROM webhook_endpoints AS endpoint
        WHERE endpoint.organization_id = organization AND endpoint.enabled AND type = ANY (endpoint.event_types)
            AND (subject_kind IS NULL OR endpoint.kinds = '{}' OR subject_kind = ANY (endpoint.kinds))
            AND (subject_tags IS NULL OR endpoint.tags = '{}' OR endpoint.tags && subject_tags)
        FOR KEY SHARE
    ),
    stored AS (
        INSERT INTO webhook_deliveries (id, organization_id, endpoint_id, task_id, event_type, data, receiver_id, give_up_at)
        SELECT uuidv7(), organization, matching.id, subject_task, type, document, matching.id, now() + interval '3 days'
        FROM matching
        RETURNING id
    )
    SELECT array_agg(stored.id) INTO stored_ids FROM stored;
    IF stored_ids IS NOT NULL THEN
        PERFORM taskmill_start_deliveries(stored_ids);
    END IF;
END $$
