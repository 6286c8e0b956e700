-- Count the live tasks of an organization, or of one owner in it. Each part reads one partial index of live tasks.
CREATE OR REPLACE FUNCTION taskmill_count_live(organization uuid, owner uuid) RETURNS bigint LANGUAGE sql STABLE AS $$
    SELECT sum(tasks)::bigint FROM (
        SELECT count(*) AS tasks FROM tasks AS task
        WHERE task.status = 'queued' AND task.rung_at IS NULL
            AND task.organization_id = organization AND (owner IS NULL OR task.owner_id = owner)
        UNION ALL
        SELECT count(*) FROM tasks AS task
        WHERE task.status = 'queued' AND task.rung_at IS NOT NULL
            AND task.organization_id = organization AND (owner IS NULL OR task.owner_id = owner)
        UNION ALL
        SELECT count(*) FROM tasks AS task
        WHERE task.status = 'running'
            AND task.organization_id = organization AND (owner IS NULL OR task.owner_id = owner)
        UNION ALL
        SELECT count(*) FROM tasks AS task
        WHERE task.status IN ('scheduled', 'retrying')
            AND task.organization_id = organization AND (owner IS NULL OR task.owner_id = owner)) AS live
$$
