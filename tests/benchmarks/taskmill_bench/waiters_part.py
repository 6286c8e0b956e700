"""`waiters`: callers who wait with `wait=60` on one API process while nothing happens."""

from __future__ import annotations

import resource
import time

from taskmill_bench.measuring import processor_seconds, resident_bytes
from taskmill_bench.processes import BenchFailed, wait_for
from taskmill_bench.run import Measures, Options, Part
from taskmill_bench.system import System
from taskmill_bench.taskmill_system import BATCH_TASKS, Taskmill

MEBIBYTE = 1 << 20
QUIET_SHARE = 0.1
QUIET_SECONDS = 0.5
ARRIVAL_LIMIT_SECONDS = 25.0
LONGEST_WATCH_SECONDS = 25.0
"""The arrival of all waiters and the watch must together take less than the 60 s after which waiters are answered."""
SPARE_FILES = 100


def measure_waiters(system: System, options: Options) -> Measures:
    assert isinstance(system, Taskmill)
    raise_file_limit(options.waiters + SPARE_FILES)
    system.start(workers=False)
    ids = submit_for_later(system, options.waiters)
    before = resident_bytes(system.pids("api"))
    requests = [{**system.poll_request(task_id), "path": f"/tasks/{task_id}?wait=60"} for task_id in ids]
    client = system.connect(requests, mode="hold", limit_seconds=90)
    try:
        client.start()
        wait_until_quiet(system, options.waiters)
        seconds = min(LONGEST_WATCH_SECONDS, max(options.seconds * 3, 1.0))
        watch, began = system.watch(), time.monotonic()
        time.sleep(seconds)
        usage, took = watch.stop(), time.monotonic() - began
        after = resident_bytes(system.pids("api"))
    finally:
        client.kill()
    return {
        "waiters": float(len(ids)),
        "api_mib": after / MEBIBYTE,
        "api_mib_before": before / MEBIBYTE,
        "kib_each": (after - before) / 1024 / len(ids),
        "api_core_percent": usage.seconds["api"] / took * 100,
        "all_core_percent": usage.total_seconds / took * 100,
    }


def submit_for_later(system: Taskmill, count: int) -> list[str]:
    """Submit tasks that are due in an hour; give their ids."""
    import json

    ids: list[str] = []
    while len(ids) < count:
        task = {**system.ping(), "delay": 3600}
        batch = {"tasks": [task] * min(BATCH_TASKS, count - len(ids))}
        headers = {"Content-Type": "application/json"}
        _, answer = system.call("POST", "/tasks/batch", json.dumps(batch).encode(), **headers)
        ids += [entry["id"] for entry in answer["tasks"]]
    return ids


def wait_until_quiet(system: Taskmill, waiters: int) -> None:
    """Return once all who wait have arrived and the API has nothing more to do for them."""
    import psutil

    api = psutil.Process(system.pids("api")[0])

    def all_arrived() -> bool:
        established = [
            c for c in api.net_connections("tcp") if c.laddr.port == system.port and c.status == "ESTABLISHED"
        ]
        return len(established) >= waiters

    def is_quiet() -> bool:
        before = processor_seconds(system.pids("api"))
        time.sleep(QUIET_SECONDS)
        return processor_seconds(system.pids("api")) - before < QUIET_SHARE * QUIET_SECONDS

    wait_for(all_arrived, ARRIVAL_LIMIT_SECONDS, "the callers to arrive", 0.2)
    wait_for(is_quiet, ARRIVAL_LIMIT_SECONDS, "the API to come to rest")


def raise_file_limit(needed: int) -> None:
    """Raise the limit of open files, for so many connections in this process and its children. Raises `BenchFailed`."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft >= needed:
        return
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise BenchFailed(f"{needed} open files are needed, and this machine allows {hard}: raise `ulimit -n`")
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


WAITERS = Part(
    "waiters", "callers with wait=60 on one API process while nothing happens", ("taskmill",), measure_waiters
)
