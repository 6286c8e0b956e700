"""`webhooks`: how many webhooks are sent in a second to a receiver on the same machine."""

from __future__ import annotations

import json
import time

from taskmill_bench.family_parts import JSON
from taskmill_bench.processes import BenchFailed, python_module, wait_for
from taskmill_bench.run import Measures, Options, Part
from taskmill_bench.system import System
from taskmill_bench.taskmill_system import Taskmill

from cli.local_stack.free_ports import choose_port

WEBHOOKS_PER_SECOND = 100
LEAST_WEBHOOKS = 20
LIMIT_SECONDS = 300.0
DONE_PINGS = "SELECT count(*) FROM tasks WHERE kind = 'platform.ping' AND status = 'succeeded'"
DELIVERIES = "SELECT count(*), count(*) FILTER (WHERE state = 'delivered') FROM webhook_deliveries"
TRIES = "SELECT count(*) FROM webhook_tries"


def measure_webhooks(system: System, options: Options) -> Measures:
    """Measure the deliveries alone: pings end while deliveries are paused, and the time runs from resuming to the last delivery."""
    assert isinstance(system, Taskmill)
    port = choose_port()
    system.queues = "files,webhooks"
    system.more_settings["TASKMILL_ALLOWED_NETWORKS"] = "127.0.0.0/8"
    system.start_part("receiver", [*python_module("taskmill_bench.webhook_receiver"), port]).wait_for_port(port)
    system.start(workers=True)
    endpoint = {"url": f"http://127.0.0.1:{port}/hook", "event_types": ["task.succeeded"]}
    system.call("POST", "/webhook-endpoints", json.dumps(endpoint).encode(), **JSON)
    # The first webhooks are not counted: everything that happens only once happens with them.
    system.send_batches(LEAST_WEBHOOKS)
    wait_until_delivered(system, LEAST_WEBHOOKS)
    count = max(LEAST_WEBHOOKS, int(options.seconds * WEBHOOKS_PER_SECOND))
    system.call("POST", "/queues/webhooks/pause")
    system.send_batches(count)
    wait_for(lambda: system.query(DONE_PINGS)[0] == system.sent, LIMIT_SECONDS, "the pings")
    watch, began = system.watch(), time.monotonic()
    system.call("POST", "/queues/webhooks/resume")
    ended = wait_until_delivered(system, LEAST_WEBHOOKS + count)
    usage = watch.stop()
    if (tries := system.query(TRIES)[0]) != LEAST_WEBHOOKS + count:
        raise BenchFailed(f"{LEAST_WEBHOOKS + count} webhooks took {tries} tries")
    return {
        "per_second": count / (ended - began),
        "cpu_us": usage.total_seconds / count * 1e6,
        "write_transactions": usage.write_transactions / count,
        "webhooks": float(count),
        **{f"cpu_us.{part}": value for part, value in usage.cpu_us_by_part(count).items()},
    }


def wait_until_delivered(system: Taskmill, count: int) -> float:
    """Wait until so many deliveries are delivered, and return the time (of `time.monotonic`)."""
    return wait_for(lambda: system.query(DELIVERIES) == (count, count), LIMIT_SECONDS, f"{count} webhooks")


WEBHOOKS = Part(
    "webhooks",
    "signed webhooks to one receiver on this machine that answers 204 at once",
    ("taskmill",),
    measure_webhooks,
)
