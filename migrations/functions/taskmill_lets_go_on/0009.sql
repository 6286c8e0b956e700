-- Return whether the steps after an ended step may start: it succeeded, or it failed by itself and has
-- `on_failure: continue`.
CREATE OR REPLACE FUNCTION taskmill_lets_go_on(step workflow_steps) RETURNS boolean LANGUAGE sql IMMUTABLE AS $$
    SELECT step.status = 'succeeded' OR (step.on_failure = 'continue' AND NOT step.upstream_failed)
$$
