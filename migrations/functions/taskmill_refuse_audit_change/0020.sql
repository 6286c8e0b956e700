-- Trigger: refuse to change or delete what the audit log holds, unless `taskmill_delete_old_seals` deletes it.
CREATE OR REPLACE FUNCTION taskmill_refuse_audit_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF tg_op = 'DELETE' AND current_setting('taskmill.audit_retention', true) = 'on' THEN
        RETURN old;
    END IF;
    RAISE EXCEPTION '% is append-only: % is refused', tg_table_name, lower(tg_op) USING ERRCODE = 'TM002';
END $$
