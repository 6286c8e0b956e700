-- Raise the version of a person's rights when the role in an organization changes, or the person is no member of it any more.
CREATE OR REPLACE FUNCTION taskmill_note_membership_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE people SET security_version = security_version + 1 WHERE id = OLD.person_id;
    RETURN NULL;
END $$
