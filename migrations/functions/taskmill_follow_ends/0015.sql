-- Write everything that follows the ends of tasks. Each subject has a function of its own.
CREATE OR REPLACE FUNCTION taskmill_follow_ends(ended uuid[]) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM taskmill_advance_workflows(ended);
    PERFORM taskmill_finish_batches(ended);
    PERFORM taskmill_submit_webhooks_of_ends(ended);
END $$
