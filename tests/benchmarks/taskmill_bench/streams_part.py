"""`streams`: the way of an event from the handler to one listener, and to many."""

from __future__ import annotations

from taskmill_bench.measuring import percentile
from taskmill_bench.processes import Client, python_module
from taskmill_bench.run import Measures, Options, Part
from taskmill_bench.system import System
from taskmill_bench.taskmill_system import Taskmill
from taskmill_bench.waiters_part import SPARE_FILES, raise_file_limit

MANY = 1000
TASKS_FOR_ONE = 50
TASKS_FOR_MANY = 5
PAUSE_SECONDS = 0.2
"""Before each task, so that the streams are at rest when its events come."""
LIMIT_SECONDS = 60.0
PATHS = {"task_events": "/tasks/{id}/events", "events": "/events"}
WRITTEN_AT = """
SELECT extract(epoch FROM at)::float8 FROM task_events
WHERE task_id = %(id)s AND type = 'status' AND data->>'status' = 'succeeded'"""


def measure_streams(system: System, options: Options) -> Measures:
    """Measure how long after the handler's end was written each listener has it: p50 and p99 over all listeners and tasks."""
    assert isinstance(system, Taskmill)
    many = min(MANY, options.waiters)
    raise_file_limit(many + SPARE_FILES)
    system.start(workers=True)
    measures: Measures = {}
    for name, path in PATHS.items():
        for listeners, most in ((1, TASKS_FOR_ONE), (many, TASKS_FOR_MANY)):
            seconds = time_events(system, path, listeners, min(most, options.latency_tasks))
            measures[f"{name}_to_{listeners}_p50_ms"] = percentile(seconds, 0.5) * 1000
            measures[f"{name}_to_{listeners}_p99_ms"] = percentile(seconds, 0.99) * 1000
    return measures


def time_events(system: Taskmill, path: str, listeners: int, tasks: int) -> list[float]:
    """Return the seconds from the time that an event has until a listener received it, for each listener and task."""
    order = {
        "host": "127.0.0.1",
        "port": system.port,
        "listeners": listeners,
        "stream": {"method": "GET", "path": path, "headers": system.headers},
        "submit": system.submit_request(),
        "hold": {"method": "POST", "path": "/queues/files/pause", "headers": system.headers},
        "release": {"method": "POST", "path": "/queues/files/resume", "headers": system.headers},
        "count": tasks,
        "pause_seconds": PAUSE_SECONDS,
        "limit_seconds": LIMIT_SECONDS,
    }
    client = Client(python_module("taskmill_bench.stream_load"), order, {})
    found = client.go(LIMIT_SECONDS * (tasks + 1))["tasks"]
    seconds: list[float] = []
    for task in found:
        (written_at,) = system.query(WRITTEN_AT, {"id": task["id"]})
        seconds += [received_at - written_at for received_at in task["received"]]
    return seconds


STREAMS = Part(
    "streams",
    f"the end of a ping, from the time that its event has to each listener: one, and {MANY:,}",
    ("taskmill",),
    measure_streams,
)
