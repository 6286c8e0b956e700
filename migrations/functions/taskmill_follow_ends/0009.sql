CREATE OR REPLACE FUNCTION taskmill_follow_ends(ended uuid[]) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM taskmill_advance_workflows(ended);
    PERFORM taskmill_finish_batches(ended);
END $$
