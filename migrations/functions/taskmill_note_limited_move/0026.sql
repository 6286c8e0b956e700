-- Note a change of status of a task that names the limits of a key. A trigger of `tasks`, for such tasks only.
--
-- The start of an attempt is stored for the rate of its key. When a task stops to count for the limit of its key, the relay
-- is notified, so that the next one starts soon.
CREATE OR REPLACE FUNCTION taskmill_note_limited_move() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.status = 'running' THEN
        INSERT INTO rate_starts (organization_id, key, at, task_id, attempt_claim)
        SELECT NEW.organization_id, NEW.key_limits->'rate'->>'key', NEW.started_at, NEW.id, NEW.claim
        WHERE NEW.key_limits ? 'rate';
    ELSIF OLD.status = 'running' OR OLD.rung_at IS NOT NULL THEN
        PERFORM pg_notify('taskmill_due', '');
    END IF;
    RETURN NULL;
END $$
