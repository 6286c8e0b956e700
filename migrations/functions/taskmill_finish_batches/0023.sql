-- Submit the `on_finished` of each batch whose last task is among the ended ones. It was admitted with the batch: it is counted,
-- and no quota refuses it.
CREATE OR REPLACE FUNCTION taskmill_finish_batches(ended uuid[]) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    follow_up record;
BEGIN
    FOR follow_up IN
        SELECT batch.* FROM batch_follow_ups AS batch
        WHERE batch.task_id IS NULL AND batch.batch_id IN (
            SELECT task.batch_id FROM unnest(ended) AS one (id) JOIN tasks AS task ON task.id = ANY (ARRAY[one.id]))
        ORDER BY batch.batch_id FOR UPDATE
    LOOP
        IF NOT EXISTS (SELECT FROM tasks AS task WHERE task.batch_id = follow_up.batch_id AND task.finished_at IS NULL) THEN
            PERFORM set_config('taskmill.admitted', 'on', true);
            UPDATE batch_follow_ups SET task_id = (taskmill_insert_tasks(jsonb_build_array(follow_up.on_finished)))[1]
            WHERE batch_id = follow_up.batch_id;
            PERFORM set_config('taskmill.admitted', '', true);
        END IF;
    END LOOP;
END $$
