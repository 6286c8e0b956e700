-- Return params, or what contains params, with the mask in the place of each stored secret (`shared/tasks/secret_params.py`).
-- Within a text of the JSON, the quotes of a stored secret would have backslashes.
CREATE OR REPLACE FUNCTION taskmill_mask_secrets(value jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE AS $$
    SELECT regexp_replace(value::text, '\{"\$secret": "[^"\\]*"\}', '"•••"', 'g')::jsonb
$$
