"""`schedules`: how long beat and the workers take for schedules that are all due in one slot."""

from __future__ import annotations

import psycopg
from taskmill_bench.processes import BenchFailed, python_module, wait_for
from taskmill_bench.run import Measures, Options, Part
from taskmill_bench.system import System
from taskmill_bench.taskmill_system import Taskmill

SCHEDULES = 1000
AHEAD_SECONDS = 3
LIMIT_SECONDS = 120.0
INSERT = """
INSERT INTO schedules (id, organization_id, owner_id, name, kind, params, every_seconds, starts_at, next_at)
SELECT gen_random_uuid(), gen_random_uuid(), gen_random_uuid(), 'schedule ' || number, 'platform.ping', '{}', 86400, slot, slot
FROM generate_series(1, %(schedules)s) AS number,
    (SELECT date_trunc('second', now()) + %(ahead)s * interval '1 second' AS slot) AS first"""
"""Schedules of as many callers, which run daily: each has one slot in this measurement."""
HAS_BEAT = "SELECT EXISTS (SELECT FROM signs_of_life WHERE part = 'beat')"
TIMES = """
SELECT count(*), count(DISTINCT slot.schedule_id), count(task.finished_at),
    extract(epoch FROM max(task.created_at) - min(slot.slot))::float8,
    extract(epoch FROM max(task.finished_at) - min(slot.slot))::float8
FROM schedule_slots slot JOIN schedules schedule ON schedule.id = slot.schedule_id AND schedule.name LIKE 'schedule %%'
JOIN tasks task ON task.id = slot.task_id"""


def measure_schedules(system: System, options: Options) -> Measures:
    """Make 1,000 schedules of 1,000 callers due at once, and time their tasks from the slot."""
    assert isinstance(system, Taskmill)
    system.start(workers=True)
    system.start_part("beat", [*python_module("cli.main"), "beat"])
    wait_for(lambda: bool(system.query(HAS_BEAT)[0]), LIMIT_SECONDS, "beat")
    with psycopg.connect(system.database_url) as connection:
        connection.execute(INSERT, {"schedules": SCHEDULES, "ahead": AHEAD_SECONDS})
    wait_for(lambda: system.query(TIMES)[2] == SCHEDULES, LIMIT_SECONDS, "the tasks of the schedules")
    tasks, schedules, _, last_submitted, last_finished = system.query(TIMES)
    if (tasks, schedules) != (SCHEDULES, SCHEDULES):
        raise BenchFailed(f"{SCHEDULES} schedules had {tasks} tasks of {schedules} schedules")
    return {"last_submitted_ms": last_submitted * 1000, "last_finished_ms": last_finished * 1000}


SCHEDULES_PART = Part(
    "schedules",
    f"{SCHEDULES:,} schedules of as many callers, all due in one slot; each submits a ping",
    ("taskmill",),
    measure_schedules,
)
