"""`steady`: whether memory and tables stop growing under a constant load, once old tasks are purged. Not part of `all`."""

from __future__ import annotations

import time

from taskmill_bench.measuring import resident_bytes
from taskmill_bench.processes import python_module
from taskmill_bench.run import Measures, Options, Part
from taskmill_bench.system import System
from taskmill_bench.taskmill_system import Taskmill

MEBIBYTE = 1 << 20
TASKS_A_SECOND = 50
KEEP_SECONDS = 120
"""After how many seconds a task is purged: early enough for the tables to reach their final size in ten minutes."""
EARLY_SHARE = 1 / 6
PARTS = ("api", "relay", "worker", "beat")
TABLES_BYTES = """
SELECT sum(pg_total_relation_size(name::regclass))::bigint
FROM unnest(ARRAY['tasks', 'task_payloads', 'task_events', 'tombstones']) AS name"""


def measure_steady(system: System, options: Options) -> Measures:
    """Submit tasks at a constant rate for `seconds`, and compare memory and tables after a sixth of the time with the end."""
    assert isinstance(system, Taskmill)
    system.queues = "files,maintenance"
    system.start(workers=True)
    system.start_part("beat", [*python_module("cli.main"), "beat"])
    batch = system.post("/tasks/batch", {"tasks": [{**system.ping(), "keep_for": KEEP_SECONDS}] * TASKS_A_SECOND})
    body = batch["body"].encode()
    began = time.monotonic()
    early: Measures | None = None
    second = 0
    while (passed := time.monotonic() - began) < options.seconds:
        system.call("POST", "/tasks/batch", body, **{"Content-Type": "application/json"})
        system.sent += TASKS_A_SECOND
        if early is None and passed >= options.seconds * EARLY_SHARE:
            early = read_sizes(system)
        second += 1
        time.sleep(max(0.0, began + second - time.monotonic()))
    late = read_sizes(system)
    early = early or late
    return {
        "tasks": float(system.sent),
        **{f"{name}_early": value for name, value in early.items()},
        **{f"{name}_late": value for name, value in late.items()},
    }


def read_sizes(system: Taskmill) -> Measures:
    """Return the MiB of the processes of each part, and of the tables with their indexes."""
    sizes = {f"{part}_mib": resident_bytes(system.pids(part)) / MEBIBYTE for part in PARTS}
    return {**sizes, "tables_mib": system.query(TABLES_BYTES)[0] / MEBIBYTE}


STEADY = Part(
    "steady",
    f"{TASKS_A_SECOND} tasks a second for as long as --seconds says; by hand",
    ("taskmill",),
    measure_steady,
    by_hand=True,
)
