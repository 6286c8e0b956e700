-- Trigger: mark the task of a follow-up, which the same transaction has submitted.
CREATE OR REPLACE FUNCTION taskmill_mark_followed_task() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE tasks SET has_follow_up = true WHERE id = new.task_id;
    RETURN NULL;
END $$
