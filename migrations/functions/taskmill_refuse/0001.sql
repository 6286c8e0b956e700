-- Trigger: refuse a change of a task. The argument is the reason.
CREATE OR REPLACE FUNCTION taskmill_refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'task %: % (% to %)', old.id, tg_argv[0], old.status, CASE tg_op WHEN 'UPDATE' THEN new.status END
        USING ERRCODE = 'TM001';
END $$
