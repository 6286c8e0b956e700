"""What the clients of peers without HTTP share: take an order, say `ready`, wait for `go`, answer in one line of JSON."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import Any

PAYLOAD = {"hello": "world"}


def take_order() -> dict[str, Any]:
    order: dict[str, Any] = json.loads(sys.stdin.readline())
    return order


def wait_for_go() -> None:
    print("ready", flush=True)
    if sys.stdin.readline().strip() != "go":
        sys.exit("the input ended before the line that starts the load")


def answer_with(result: dict[str, Any]) -> None:
    print(json.dumps(result), flush=True)


def run_blocking(send: Callable[[], object], send_and_wait: Callable[[], object]) -> None:
    """Run an order with a blocking client: send many tasks, or one at a time and wait for the end of each."""
    order = take_order()
    if order["mode"] == "send":
        wait_for_go()
        processor, began = time.process_time(), time.perf_counter()
        for _ in range(order["count"]):
            send()
        answer_with({"seconds": time.perf_counter() - began, "cpu_seconds": time.process_time() - processor})
        return
    wait_for_go()
    latencies = []
    for _ in range(order["count"]):
        began = time.perf_counter()
        send_and_wait()
        latencies.append(time.perf_counter() - began)
        time.sleep(order["idle_seconds"])
    answer_with({"latencies": latencies})
