"""The peer `dramatiq`: Dramatiq on Redis. The module is the workers' application, and the client when it is run."""

from __future__ import annotations

import os
from typing import Any

import dramatiq
from client_loop import PAYLOAD, run_blocking
from dramatiq.brokers.redis import RedisBroker
from dramatiq.results import Results
from dramatiq.results.backends import RedisBackend

URL = os.environ["BENCH_BROKER_URL"]
broker = RedisBroker(url=URL)
broker.add_middleware(Results(backend=RedisBackend(url=URL)))
dramatiq.set_broker(broker)


@dramatiq.actor(actor_name="noop")
def noop(payload: dict[str, Any]) -> None:
    pass


@dramatiq.actor(actor_name="noop_with_result", store_results=True)
def noop_with_result(payload: dict[str, Any]) -> dict[str, Any]:
    return {"echo": None}


if __name__ == "__main__":
    run_blocking(
        lambda: noop.send(PAYLOAD), lambda: noop_with_result.send(PAYLOAD).get_result(block=True, timeout=30_000)
    )
