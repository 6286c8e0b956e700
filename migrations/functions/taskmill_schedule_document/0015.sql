-- Return a schedule as a webhook shows it.
CREATE OR REPLACE FUNCTION taskmill_schedule_document(schedule schedules) RETURNS json LANGUAGE sql STABLE AS $$
    SELECT json_build_object('id', schedule.id, 'name', schedule.name, 'enabled', schedule.enabled, 'cron', schedule.cron,
        'every', schedule.every_seconds, 'timezone', schedule.timezone,
        'starts_at', taskmill_timestamp(schedule.starts_at), 'ends_at', taskmill_timestamp(schedule.ends_at),
        'missed', schedule.missed, 'overlap', schedule.overlap, 'jitter', schedule.jitter_seconds, 'kind', schedule.kind,
        'next_at', taskmill_timestamp(schedule.next_at), 'last_error', schedule.last_error,
        'created_at', taskmill_timestamp(schedule.created_at), 'updated_at', taskmill_timestamp(schedule.updated_at),
        'links', json_build_object('self', '/schedules/' || schedule.id, 'run', '/schedules/' || schedule.id || '/run'))
$$
