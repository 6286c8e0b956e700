-- Trigger: note that no seal covers a new entry of the audit log yet.
CREATE OR REPLACE FUNCTION taskmill_note_unsealed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO audit_unsealed (entry_id) VALUES (new.id);
    RETURN NULL;
END $$
