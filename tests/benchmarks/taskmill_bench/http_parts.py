"""`submit` and `poll`: the cost of the API, with the workers stopped so that nothing else runs."""

from __future__ import annotations

from typing import Any

from taskmill_bench.run import Measures, Options, Part
from taskmill_bench.system import HttpSystem, System, require_no_errors
from taskmill_bench.taskmill_system import Taskmill

POLLED_TASKS = 64
WARM_UP_SECONDS = 0.5


def measure_load(system: HttpSystem, requests: list[dict[str, Any]], seconds: float) -> Measures:
    """Load a system for some seconds. `cpu_us` is the processor time of all server processes for each request."""
    if seconds >= WARM_UP_SECONDS:
        system.load(requests, seconds=WARM_UP_SECONDS)
    client = system.connect(requests, mode="load", seconds=seconds)
    watch = system.watch()
    answer = client.go(seconds + 60)
    usage = watch.stop()
    require_no_errors(system.name, answer)
    count = answer["requests"]
    return {
        "per_second": count / answer["seconds"],
        "p50_ms": answer["p50_ms"],
        "p99_ms": answer["p99_ms"],
        "cpu_us": usage.total_seconds / count * 1e6,
        "load_cpu_us": answer["client_cpu_seconds"] / count * 1e6,
        **{f"cpu_us.{part}": value for part, value in usage.cpu_us_by_part(count).items()},
    }


def measure_submit(system: System, options: Options) -> Measures:
    assert isinstance(system, HttpSystem)
    system.start(workers=False)
    return measure_load(system, [system.submit_request()], options.seconds)


def submit_and_finish(system: HttpSystem, count: int) -> list[str]:
    """Submit tasks one after another, wait until all are done, and return their ids."""
    from taskmill_bench.http_load import Caller, write_request

    address = {"host": "127.0.0.1", "port": system.port}
    caller = Caller(address)
    ids = [caller.call(write_request(address, system.submit_request()))["id"] for _ in range(count)]
    system.sent += count
    system.wait_until_drained()
    return ids


class TaskmillUnchanged(Taskmill):
    """Taskmill, polled with the ETag of the version that the caller has."""

    name = "taskmill_304"


def measure_poll(system: System, options: Options) -> Measures:
    """Measure polls of done tasks."""
    assert isinstance(system, HttpSystem)
    system.start(workers=True)
    requests = [system.poll_request(task_id) for task_id in submit_and_finish(system, POLLED_TASKS)]
    system.stop_part("worker")
    if isinstance(system, TaskmillUnchanged):
        for request in requests:
            headers, _ = system.call("GET", request["path"])
            request["headers"] = {**request["headers"], "If-None-Match": headers["etag"]}
    return measure_load(system, requests, options.seconds)


HTTP_SYSTEMS = ("naive", "naive_pg", "taskmill")
SUBMIT = Part("submit", "POST /tasks, 16 connections, workers stopped", HTTP_SYSTEMS, measure_submit)
POLL = Part(
    "poll",
    "GET /tasks/<id> of 64 done tasks in turn, 16 connections; once more with the ETag that they have",
    (*HTTP_SYSTEMS, TaskmillUnchanged.name),
    measure_poll,
    variants={TaskmillUnchanged.name: TaskmillUnchanged},
)
