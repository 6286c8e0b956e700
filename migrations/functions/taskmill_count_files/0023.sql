-- Trigger: count the bytes of the files that a statement has inserted or deleted, by organization and owner. The argument is
-- 1 or -1. An upload that exceeds a quota is refused; an artifact, whose work is done, is not: then uploads and tasks that
-- make files are refused until there is room again.
CREATE OR REPLACE FUNCTION taskmill_count_files() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    sign int := tg_argv[0]::int;
    counted record;
BEGIN
    FOR counted IN
        SELECT file.organization_id, file.owner_id, sum(file.size)::bigint AS bytes, count(*) AS files,
            bool_or(file.origin = 'upload') AS is_upload
        FROM changed AS file GROUP BY file.organization_id, file.owner_id ORDER BY file.organization_id, file.owner_id
    LOOP
        INSERT INTO stored_bytes AS known (organization_id, owner_id, writer, bytes, files)
        VALUES (counted.organization_id, counted.owner_id, pg_backend_pid(), sign * counted.bytes, sign * counted.files)
        ON CONFLICT (organization_id, owner_id, writer) DO UPDATE
        SET bytes = known.bytes + excluded.bytes, files = known.files + excluded.files;
        IF sign > 0 AND counted.is_upload THEN
            PERFORM taskmill_enforce_quotas(counted.organization_id, counted.owner_id, 0, 0, counted.files);
        END IF;
    END LOOP;
    RETURN NULL;
END $$
