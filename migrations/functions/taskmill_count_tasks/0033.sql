-- Trigger: count the tasks that a statement has inserted, by organization and owner, and refuse them if a quota is exceeded.
-- Each backend has a row of its own for an owner and a day, so that counting waits for nobody. Tasks of the platform, such as
-- those that send webhooks, are not counted. Of an email, a list that a workflow fills in later is counted as one recipient.
-- A task that would be kept for longer than is allowed is kept for as long as is allowed.
--
-- Every submission executes this, so what nothing needs is left out: recipients without an email, quotas without a limit.
CREATE OR REPLACE FUNCTION taskmill_count_tasks() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    is_limited boolean;
    has_email boolean;
    added record;
BEGIN
    WITH grouped AS MATERIALIZED (
        SELECT task.organization_id, task.owner_id, count(*) AS tasks,
            count(*) FILTER (WHERE task.kind = 'email.send') AS emails
        FROM inserted AS task WHERE task.organization_id <> '00000000-0000-7000-8000-000000000000'
        GROUP BY task.organization_id, task.owner_id
    ),
    added AS (
        INSERT INTO usage_by_day AS counted (organization_id, day, owner_id, writer, tasks, emails, recipients)
        SELECT organization_id, (now() AT TIME ZONE 'UTC')::date, owner_id, pg_backend_pid(), tasks, emails, 0 FROM grouped
        ON CONFLICT (organization_id, day, owner_id, writer) DO UPDATE SET tasks = counted.tasks + excluded.tasks,
            emails = counted.emails + excluded.emails
    )
    SELECT EXISTS (SELECT FROM limits WHERE name IN ('tasks_per_day', 'live_tasks', 'stored_bytes', 'emails_per_day',
        'recipients_per_day', 'retention_seconds')), EXISTS (SELECT FROM grouped WHERE emails > 0)
    INTO is_limited, has_email;
    IF has_email THEN
        UPDATE usage_by_day AS counted SET recipients = counted.recipients + email.recipients
        FROM (
            SELECT task.organization_id, task.owner_id,
                sum(CASE WHEN jsonb_typeof(list.value) = 'array' THEN jsonb_array_length(list.value) ELSE 1 END) AS recipients
            FROM inserted AS task JOIN task_payloads AS payload ON payload.task_id = ANY (ARRAY[task.id])
            CROSS JOIN LATERAL jsonb_each(payload.params) AS list
            WHERE task.kind = 'email.send' AND list.key IN ('to', 'cc', 'bcc')
            GROUP BY task.organization_id, task.owner_id) AS email
        WHERE counted.organization_id = email.organization_id AND counted.owner_id = email.owner_id
            AND counted.day = (now() AT TIME ZONE 'UTC')::date AND counted.writer = pg_backend_pid();
    END IF;
    IF is_limited THEN
        FOR added IN
            SELECT task.organization_id, task.owner_id, count(*) AS tasks,
                count(*) FILTER (WHERE task.kind = 'email.send') AS emails,
                count(*) FILTER (WHERE task.queue IN ('files', 'reports')) AS storing
            FROM inserted AS task WHERE task.organization_id <> '00000000-0000-7000-8000-000000000000'
            GROUP BY task.organization_id, task.owner_id ORDER BY task.organization_id, task.owner_id
        LOOP
            PERFORM taskmill_enforce_quotas(
                added.organization_id, added.owner_id, added.tasks, added.emails, added.storing);
        END LOOP;
        UPDATE tasks SET keep_seconds = longest.seconds
        FROM inserted CROSS JOIN LATERAL (
            SELECT min(effective.amount) AS seconds FROM (
                SELECT DISTINCT ON (quota.scope) quota.amount FROM limits AS quota
                WHERE quota.name = 'retention_seconds' AND quota.subject_id IN ('00000000-0000-0000-0000-000000000000',
                    CASE quota.scope WHEN 'organization' THEN inserted.organization_id ELSE inserted.owner_id END)
                ORDER BY quota.scope, quota.subject_id DESC) AS effective) AS longest
        WHERE tasks.id = ANY (ARRAY[inserted.id]) AND tasks.keep_seconds > longest.seconds
            AND tasks.organization_id <> '00000000-0000-7000-8000-000000000000';
    END IF;
    RETURN NULL;
END $$
