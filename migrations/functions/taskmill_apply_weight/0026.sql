-- Let the published tasks of an organization be published again, with turns by its new weight. A trigger of `organizations`.
--
-- Raising `publications` first makes a relay that does not see the new weight yet publish nothing.
CREATE OR REPLACE FUNCTION taskmill_apply_weight() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE queue_turns SET publications = publications + 1
    WHERE queue IN (SELECT queue FROM queue_turns ORDER BY queue FOR UPDATE);
    UPDATE tasks SET rung_at = NULL, turn = NULL
    WHERE id IN (
        SELECT id FROM tasks
        WHERE status = 'queued' AND rung_at IS NOT NULL AND organization_id = NEW.id ORDER BY id FOR UPDATE);
    DELETE FROM caller_turns WHERE owner_id IN (SELECT id FROM callers WHERE organization_id = NEW.id);
    PERFORM pg_notify('taskmill_due', '');
    RETURN NULL;
END $$
