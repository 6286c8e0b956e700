-- Trigger: mark the tasks of a batch that submits something when its last task ends. The same transaction has submitted them.
CREATE OR REPLACE FUNCTION taskmill_mark_followed_batch() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE tasks SET has_follow_up = true WHERE batch_id = new.batch_id;
    RETURN NULL;
END $$
