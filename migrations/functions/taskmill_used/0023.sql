-- Return how much of a quota is used. For `live_tasks` it is an upper bound, which is raised by the new tasks and replaced by
-- a count when it exceeds the quota: so the end of a task needs no write.
CREATE OR REPLACE FUNCTION taskmill_used(
    name text, scope text, organization uuid, owner uuid, today date, new_tasks bigint, amount bigint
) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    only_owner uuid := CASE scope WHEN 'caller' THEN owner END;
    subject uuid := coalesce(only_owner, organization);
    used bigint;
BEGIN
    IF name = 'live_tasks' THEN
        UPDATE live_task_bounds AS known SET bound = known.bound + new_tasks
        WHERE known.subject_id = subject AND known.scope = taskmill_used.scope RETURNING known.bound INTO used;
        IF used IS NULL OR used > amount THEN
            used := taskmill_count_live(organization, only_owner);
            INSERT INTO live_task_bounds AS known (subject_id, scope, bound) VALUES (subject, taskmill_used.scope, used)
            ON CONFLICT ON CONSTRAINT pk_live_task_bounds DO UPDATE SET bound = excluded.bound;
        END IF;
    ELSIF name = 'stored_bytes' THEN
        SELECT coalesce(sum(counted.bytes), 0) INTO used FROM stored_bytes AS counted
        WHERE counted.organization_id = organization AND (only_owner IS NULL OR counted.owner_id = only_owner);
    ELSE
        SELECT coalesce(sum(CASE name WHEN 'tasks_per_day' THEN counted.tasks WHEN 'emails_per_day' THEN counted.emails
            ELSE counted.recipients END), 0) INTO used FROM usage_by_day AS counted
        WHERE counted.organization_id = organization AND counted.day = today
            AND (only_owner IS NULL OR counted.owner_id = only_owner);
    END IF;
    RETURN used;
END $$
