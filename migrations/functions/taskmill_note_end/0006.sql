CREATE OR REPLACE FUNCTION taskmill_note_end() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF new.batch_id IS NOT NULL AND EXISTS (SELECT FROM batch_follow_ups AS batch WHERE batch.batch_id = new.batch_id) THEN
        PERFORM set_config('taskmill.ended',
            concat_ws(',', nullif(current_setting('taskmill.ended', true), ''), new.id::text), true);
    END IF;
    RETURN NULL;
END $$
