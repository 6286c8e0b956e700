-- Trigger: submit the webhooks of a schedule that could not submit its task.
CREATE OR REPLACE FUNCTION taskmill_note_schedule_failure() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM taskmill_submit_webhooks(new.organization_id, 'schedule.failed', NULL, new.kind, NULL,
        taskmill_schedule_document(new));
    RETURN NULL;
END $$
