-- Trigger: submit the webhooks of a workflow that has finished.
CREATE OR REPLACE FUNCTION taskmill_note_workflow_end() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT FROM webhook_endpoints AS endpoint WHERE endpoint.organization_id = new.organization_id
        AND endpoint.enabled AND 'workflow.finished' = ANY (endpoint.event_types))
    THEN
        PERFORM taskmill_submit_webhooks(new.organization_id, 'workflow.finished', NULL, NULL, NULL,
            taskmill_workflow_document(new));
    END IF;
    RETURN NULL;
END $$
