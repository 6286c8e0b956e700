-- Raise the version of a person's rights when the platform role changes, or the person is disabled or enabled: access tokens of
-- the version before are refused.
CREATE OR REPLACE FUNCTION taskmill_raise_security_version() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.security_version := OLD.security_version + 1;
    RETURN NEW;
END $$
