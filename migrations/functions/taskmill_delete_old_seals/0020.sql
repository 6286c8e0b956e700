-- Delete the oldest seals of the audit log, with their entries, if they are older than `keep_days`: at most `max_seals`.
-- Return how many seals and entries were deleted.
--
-- It runs with the rights of the owner of the tables, because the application role may not delete from them. The migration
-- that defines it sets its `search_path`; whoever replaces it sets it again.
CREATE OR REPLACE FUNCTION taskmill_delete_old_seals(keep_days integer, max_seals integer, OUT seals integer, OUT entries integer)
LANGUAGE plpgsql SECURITY DEFINER SET taskmill.audit_retention = 'on' AS $$
DECLARE
    last audit_seals;
BEGIN
    IF keep_days IS NULL OR keep_days < 1 THEN
        RAISE EXCEPTION 'the audit log is kept for a day at least' USING ERRCODE = 'TM002';
    END IF;
    PERFORM FROM audit_chain WHERE id = 1 FOR UPDATE;
    SELECT * INTO last FROM (
        SELECT * FROM audit_seals ORDER BY number LIMIT max_seals) AS oldest
    WHERE sealed_at < now() - keep_days * interval '1 day' ORDER BY number DESC LIMIT 1;
    seals := 0;
    entries := 0;
    IF last.number IS NULL THEN
        RETURN;
    END IF;
    DELETE FROM audit_entries AS entry USING audit_seals AS seal
    WHERE seal.number <= last.number AND entry.id = ANY (seal.entry_ids);
    GET DIAGNOSTICS entries = ROW_COUNT;
    DELETE FROM audit_seals WHERE number <= last.number;
    GET DIAGNOSTICS seals = ROW_COUNT;
    UPDATE audit_chain SET deleted_number = last.number, deleted_sha256 = last.sha256, deleted_sealed_at = last.sealed_at
    WHERE id = 1;
END $$
