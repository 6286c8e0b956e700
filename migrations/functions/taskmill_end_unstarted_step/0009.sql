-- End a step that waits, and its task, without starting it.
CREATE OR REPLACE FUNCTION taskmill_end_unstarted_step(step workflow_steps, ends_as text, problem jsonb, by_upstream boolean)
RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    UPDATE workflow_steps SET status = ends_as, upstream_failed = by_upstream, error = problem
    WHERE workflow_id = step.workflow_id AND name = step.name;
    WITH ended AS (
        UPDATE tasks AS task SET status = ends_as, finished_at = now(), run_at = NULL, version = task.version + 1,
            purge_at = now() + task.keep_seconds * interval '1 second'
        WHERE task.id = step.task_id AND task.status = 'scheduled'
        RETURNING task.id, task.version
    ),
    payload AS (
        UPDATE task_payloads AS payload SET error = problem FROM ended WHERE payload.task_id = ended.id
    )
    INSERT INTO task_events (task_id, seq, type, data)
    SELECT id, version, 'status', jsonb_build_object('status', ends_as) FROM ended;
END $$
