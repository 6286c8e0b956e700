-- Move a workflow on after tasks of it have ended: store the status of each ended step, start or cancel the steps that
-- waited for them, and finish the workflow if no step is left. The workflow's row is locked first, so that of two
-- transactions that end the last two steps before another one, the second sees both ends and starts it.
CREATE OR REPLACE FUNCTION taskmill_advance_workflow(of_workflow uuid) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    workflow record;
    step workflow_steps;
    place_of_step smallint;
    before record;
BEGIN
    -- What this function ends itself calls it again, and is taken into account by the loop below.
    IF current_setting('taskmill.advancing', true) = of_workflow::text THEN
        RETURN;
    END IF;
    SELECT * INTO workflow FROM workflows WHERE id = of_workflow AND finished_at IS NULL FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    PERFORM set_config('taskmill.advancing', of_workflow::text, true);
    UPDATE workflow_steps AS one SET status = task.status
    FROM tasks AS task
    WHERE one.workflow_id = of_workflow AND one.status IN ('waiting', 'running') AND task.id = one.task_id
        AND task.finished_at IS NOT NULL;
    UPDATE workflow_steps AS one SET status = every.status
    FROM workflow_steps AS fanned CROSS JOIN LATERAL (
        SELECT CASE WHEN bool_and(task.status = 'succeeded') THEN 'succeeded'
            WHEN bool_or(task.status IN ('failed', 'expired')) THEN 'failed' ELSE 'cancelled' END AS status
        FROM tasks AS task WHERE task.workflow_id = of_workflow AND task.workflow_step = fanned.name
        HAVING bool_and(task.finished_at IS NOT NULL)) AS every
    WHERE fanned.workflow_id = of_workflow AND fanned.status = 'running' AND fanned.task_id IS NULL
        AND one.workflow_id = of_workflow AND one.name = fanned.name;
    FOR place_of_step IN
        SELECT place FROM workflow_steps WHERE workflow_id = of_workflow AND status = 'waiting' ORDER BY place
    LOOP
        SELECT * INTO step FROM workflow_steps WHERE workflow_id = of_workflow AND place = place_of_step;
        SELECT count(*) FILTER (WHERE one.status IN ('waiting', 'running')) AS live,
            jsonb_agg(one.name ORDER BY one.place)
                FILTER (WHERE one.status NOT IN ('waiting', 'running') AND NOT taskmill_lets_go_on(one)) AS failed
        INTO before FROM workflow_steps AS one WHERE one.workflow_id = of_workflow AND one.name = ANY (step.after);
        IF workflow.cancel_requested_at IS NOT NULL THEN
            PERFORM taskmill_end_unstarted_step(step, 'cancelled', jsonb_build_object('type', '/problems/cancelled',
                'title', 'Cancelled', 'detail', 'A caller cancelled the workflow.', 'retryable', false, 'attempt', 0,
                'data', '{}'::jsonb), false);
        ELSIF before.failed IS NOT NULL THEN
            PERFORM taskmill_end_unstarted_step(step, 'cancelled', jsonb_build_object('type', '/problems/upstream-failed',
                'title', 'Upstream failed', 'detail', format('The step %s, which comes before this one, did not succeed. '
                    'Retry that step: this one starts when it has succeeded.', before.failed->>0),
                'retryable', false, 'attempt', 0, 'data', jsonb_build_object('steps', before.failed)), true);
        ELSIF before.live = 0 THEN
            PERFORM taskmill_start_step(step);
        END IF;
    END LOOP;
    UPDATE workflows SET finished_at = clock_timestamp(), status = CASE
        WHEN (SELECT bool_and(taskmill_lets_go_on(one)) FROM workflow_steps AS one WHERE one.workflow_id = of_workflow)
            THEN 'succeeded'
        WHEN workflow.cancel_requested_at IS NULL AND EXISTS (SELECT FROM workflow_steps AS one
            WHERE one.workflow_id = of_workflow AND one.status IN ('failed', 'expired') AND NOT taskmill_lets_go_on(one))
            THEN 'failed'
        ELSE 'cancelled' END
    WHERE id = of_workflow
        AND NOT EXISTS (SELECT FROM workflow_steps WHERE workflow_id = of_workflow AND status IN ('waiting', 'running'));
    PERFORM set_config('taskmill.advancing', '', true);
END $$
