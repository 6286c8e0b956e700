-- Let the published tasks for which a changed limit counts be published again, by the new limit. A trigger of `limits`.
--
-- Raising `publications` first makes a relay that does not see the new limit yet publish nothing. The tasks keep their turns.
CREATE OR REPLACE FUNCTION taskmill_apply_running_limit() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    changed limits := CASE WHEN TG_OP = 'DELETE' THEN OLD ELSE NEW END;
BEGIN
    IF changed.name NOT IN ('running', 'running_by_queue', 'running_by_kind')
        OR (TG_OP = 'UPDATE' AND NEW.amount IS NOT DISTINCT FROM OLD.amount) THEN
        RETURN NULL;
    END IF;
    UPDATE queue_turns SET publications = publications + 1
    WHERE queue IN (SELECT queue FROM queue_turns ORDER BY queue FOR UPDATE);
    UPDATE tasks SET rung_at = NULL
    WHERE id IN (
        SELECT id FROM tasks
        WHERE status = 'queued' AND rung_at IS NOT NULL
            -- The row of no organization and no caller is the default of all.
            AND (changed.subject_id = '00000000-0000-0000-0000-000000000000'
                OR changed.subject_id = CASE changed.scope WHEN 'caller' THEN owner_id ELSE organization_id END)
            AND (changed.name <> 'running_by_queue' OR queue = changed.target)
            AND (changed.name <> 'running_by_kind' OR kind = changed.target)
        ORDER BY id FOR UPDATE);
    PERFORM pg_notify('taskmill_due', '');
    RETURN NULL;
END $$
