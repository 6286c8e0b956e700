"""`fairness`: how long one caller's task waits behind another caller's backlog, which fills the window."""

from __future__ import annotations

import json

from taskmill_bench.measuring import percentile
from taskmill_bench.processes import wait_for
from taskmill_bench.run import Measures, Options, Part
from taskmill_bench.system import System
from taskmill_bench.taskmill_system import Taskmill

from shared.api_keys import create_key

SLEEP_MS = 100
BACKLOG = 1500
"""More than a window, and more than the workers finish during the measurement."""
OTHER_TASKS = 30
LIMIT_SECONDS = 60.0
FULL = "SELECT count(*) >= %(window)s FROM tasks WHERE status = 'queued' AND rung_at IS NOT NULL"
WAIT = "SELECT extract(epoch FROM started_at - created_at)::float8 FROM tasks WHERE id = %(id)s::uuid"


def measure_fairness(system: System, options: Options) -> Measures:
    """Fill the window with one caller's tasks that sleep 100 ms; then submit another caller's pings, one at a time."""
    assert isinstance(system, Taskmill)
    system.start(workers=True)
    settings = system.make_settings(system.database_url)
    key = create_key(settings, "another caller", "admin").key
    system.send_batches(BACKLOG, sleep_ms=SLEEP_MS)
    wait_for(lambda: bool(system.query(FULL, {"window": settings.window * 0.9})[0]), LIMIT_SECONDS, "a full window")
    body = json.dumps(system.ping()).encode()
    waits: list[float] = []
    for _ in range(OTHER_TASKS):
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {key}"}
        _, task = system.call("POST", "/tasks", body, **headers)
        asked = {"id": task["id"]}
        wait_for(lambda asked=asked: system.query(WAIT, asked)[0] is not None, LIMIT_SECONDS, "another caller's task")  # type: ignore[misc]
        waits.append(system.query(WAIT, asked)[0])
    backlog = system.query("SELECT count(*) FROM tasks WHERE status = 'queued'")[0]
    slots = system.worker_processes * settings.worker_concurrency
    return {
        "wait_p50_ms": percentile(waits, 0.5) * 1000,
        "wait_max_ms": max(waits) * 1000,
        "slot_is_free_every_ms": SLEEP_MS / slots,
        "backlog_after": float(backlog),
    }


FAIRNESS = Part(
    "fairness",
    f"one caller's ping behind another caller's backlog of {BACKLOG} pings that sleep {SLEEP_MS} ms",
    ("taskmill",),
    measure_fairness,
)
