-- Send the webhook `quota.warning`, once for each quota and day.
CREATE OR REPLACE FUNCTION taskmill_warn_of_quota(
    organization uuid, scope text, subject uuid, name text, amount bigint, used bigint, today date
) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO quota_warnings (subject_id, scope, name, day) VALUES (subject, scope, name, today) ON CONFLICT DO NOTHING;
    IF FOUND THEN
        PERFORM taskmill_submit_webhooks(organization, 'quota.warning', NULL, NULL, NULL, json_build_object(
            'quota', name, 'scope', scope, 'organization_id', organization,
            'caller_id', CASE scope WHEN 'caller' THEN subject END, 'used', used, 'allowed', amount, 'day', today));
    END IF;
END $$
