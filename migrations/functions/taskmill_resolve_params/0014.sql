-- Return the params of a step with its references replaced by their values, and the ids of its input files; or the problem,
-- if a value does not exist. `item` is the element of `for_each`. Only files of the step's organization become input files.
CREATE OR REPLACE FUNCTION taskmill_resolve_params(step workflow_steps, item jsonb, OUT params jsonb, OUT files jsonb,
    OUT problem text) LANGUAGE plpgsql STABLE AS $$
DECLARE
    reference record;
    value jsonb;
BEGIN
    params := step.submission->'params';
    files := coalesce(step.submission->'files', '[]');
    FOR reference IN SELECT * FROM jsonb_to_recordset(step.refs) AS each (pointer text[], source text, path text[], written text)
    LOOP
        value := CASE WHEN reference.source = 'item' THEN item #> reference.path
            ELSE taskmill_find_step_value(step.workflow_id, reference.source, reference.path) END;
        IF value IS NULL THEN
            problem := format('The param %s refers to %s, which does not exist.',
                '/' || array_to_string(reference.pointer, '/'), reference.written);
            RETURN;
        END IF;
        params := jsonb_set(params, reference.pointer, value, false);
        IF reference.path[array_upper(reference.path, 1)] = 'id' AND (reference.source = 'item' OR reference.path[1] = 'artifacts')
            AND pg_input_is_valid(value #>> '{}', 'uuid')
            AND EXISTS (SELECT FROM files AS file WHERE file.id = (value #>> '{}')::uuid
                AND file.organization_id = (step.submission->>'organization_id')::uuid) THEN
            files := files || jsonb_build_array(value);
        END IF;
    END LOOP;
    IF octet_length(params::text) > 1048576 THEN
        problem := 'With the values of the steps before it, the params are larger than 1 MiB.';
    END IF;
END $$
