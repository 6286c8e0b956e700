-- Trigger: count a task that was done and is live again, because it was retried.
CREATE OR REPLACE FUNCTION taskmill_count_return() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE live_task_bounds SET bound = bound + 1
    WHERE (scope = 'organization' AND subject_id = new.organization_id) OR (scope = 'caller' AND subject_id = new.owner_id);
    RETURN NULL;
END $$
