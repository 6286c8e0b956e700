-- Refuse what was just counted for an owner of tasks if a quota is exceeded now, and warn once a day from 80 % on. What is
-- inserted while another statement holds the quota waits for its commit, so that the sum that is compared is complete. Tasks
-- that follow from the end of another one do not wait, since many ends are written together: they may exceed a quota by what
-- others insert at the same moment.
CREATE OR REPLACE FUNCTION taskmill_enforce_quotas(
    organization uuid, owner uuid, new_tasks bigint, new_emails bigint, new_storing bigint
) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    today date := (now() AT TIME ZONE 'UTC')::date;
    follows boolean := pg_trigger_depth() > 1;
    quota record;
    used bigint;
BEGIN
    IF current_setting('taskmill.admitted', true) = 'on' THEN
        UPDATE live_task_bounds SET bound = bound + new_tasks
        WHERE (scope = 'organization' AND subject_id = organization) OR (scope = 'caller' AND subject_id = owner);
        RETURN;
    END IF;
    FOR quota IN
        SELECT listed.* FROM taskmill_list_quotas(organization, owner) AS listed
        WHERE CASE listed.name WHEN 'tasks_per_day' THEN new_tasks WHEN 'live_tasks' THEN new_tasks
            WHEN 'stored_bytes' THEN new_storing ELSE new_emails END > 0
    LOOP
        IF NOT follows THEN
            PERFORM pg_advisory_xact_lock(hashtextextended(quota.subject::text, 3));
        END IF;
        used := taskmill_used(quota.name, quota.scope, organization, owner, today, new_tasks, quota.amount);
        IF used > quota.amount THEN
            RAISE EXCEPTION 'the quota % of the % % is used up', quota.name, quota.scope, quota.subject
                USING ERRCODE = '23Q01', DETAIL = json_build_object('name', quota.name, 'scope', quota.scope,
                    'subject', quota.subject, 'amount', quota.amount, 'used', used);
        END IF;
        IF NOT follows AND used::numeric * 10 >= quota.amount::numeric * 8 AND quota.amount > 0 THEN
            PERFORM taskmill_warn_of_quota(organization, quota.scope, quota.subject, quota.name, quota.amount, used, today);
        END IF;
    END LOOP;
END $$
