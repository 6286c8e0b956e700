-- Trigger: note, before a statement ends tasks, whether there is any webhook endpoint. Most systems have none, and the end of
-- a task that nothing else follows then costs no look-up.
CREATE OR REPLACE FUNCTION taskmill_note_endpoints() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM set_config('taskmill.has_endpoints', EXISTS (SELECT FROM webhook_endpoints)::text, true);
    RETURN NULL;
END $$
