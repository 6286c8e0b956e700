-- Trigger: note the id of a task that ends, if something may follow. `taskmill_follow_up` reads the ids at the end of the
-- statement. They are passed on in a transaction-local setting, because a statement trigger sees no rows without transition
-- tables, which would copy every updated row of every statement. The trigger's own condition leaves out most tasks.
CREATE OR REPLACE FUNCTION taskmill_note_end() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF new.has_follow_up
        OR new.workflow_id IS NOT NULL
        OR (new.kind = 'webhooks.deliver' AND new.status <> 'succeeded')
        OR EXISTS (SELECT FROM webhook_endpoints AS endpoint WHERE endpoint.organization_id = new.organization_id)
    THEN
        PERFORM set_config('taskmill.ended',
            concat_ws(',', nullif(current_setting('taskmill.ended', true), ''), new.id::text), true);
    END IF;
    RETURN NULL;
END $$
