-- Return a time as the API shows it.
CREATE OR REPLACE FUNCTION taskmill_timestamp(moment timestamptz) RETURNS text LANGUAGE sql STABLE AS $$
    SELECT to_char(moment AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')
$$
