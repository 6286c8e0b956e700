-- Trigger: follow up on the tasks that the statement has ended.
CREATE OR REPLACE FUNCTION taskmill_follow_up() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    ended text := current_setting('taskmill.ended', true);
BEGIN
    IF ended <> '' THEN
        PERFORM set_config('taskmill.ended', '', true);
        PERFORM taskmill_follow_ends(string_to_array(ended, ',')::uuid[]);
    END IF;
    RETURN NULL;
END $$
