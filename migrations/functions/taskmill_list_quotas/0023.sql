-- List the counted quotas of an owner of tasks: those of the organization, then those of the caller. A subject's own row
-- replaces the default one, and an amount of NULL means no limit.
CREATE OR REPLACE FUNCTION taskmill_list_quotas(organization uuid, owner uuid)
RETURNS TABLE (scope text, name text, amount bigint, subject uuid) LANGUAGE sql STABLE AS $$
    SELECT effective.scope, effective.name, effective.amount,
        CASE effective.scope WHEN 'organization' THEN organization ELSE owner END
    FROM (
        SELECT DISTINCT ON (quota.scope, quota.name) quota.scope, quota.name, quota.amount
        FROM limits AS quota
        WHERE quota.name IN ('tasks_per_day', 'live_tasks', 'stored_bytes', 'emails_per_day', 'recipients_per_day')
            AND quota.subject_id IN ('00000000-0000-0000-0000-000000000000', organization, owner)
            AND quota.subject_id IN ('00000000-0000-0000-0000-000000000000',
                CASE quota.scope WHEN 'organization' THEN organization ELSE owner END)
        ORDER BY quota.scope, quota.name, quota.subject_id DESC) AS effective
    WHERE effective.amount IS NOT NULL
    ORDER BY effective.scope DESC, effective.name
$$
