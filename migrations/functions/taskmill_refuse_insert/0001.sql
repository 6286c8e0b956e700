-- Trigger: refuse a new task whose status is not a first one.
CREATE OR REPLACE FUNCTION taskmill_refuse_insert() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'task %: may not begin as %', new.id, new.status USING ERRCODE = 'TM001';
END $$
