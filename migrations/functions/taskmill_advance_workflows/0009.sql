-- Move the workflows of ended tasks on, in the order of their ids.
CREATE OR REPLACE FUNCTION taskmill_advance_workflows(ended uuid[]) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    of_workflow uuid;
BEGIN
    FOR of_workflow IN
        SELECT DISTINCT task.workflow_id FROM unnest(ended) AS one (id) JOIN tasks AS task ON task.id = ANY (ARRAY[one.id])
        WHERE task.workflow_id IS NOT NULL ORDER BY task.workflow_id
    LOOP
        PERFORM taskmill_advance_workflow(of_workflow);
    END LOOP;
END $$
