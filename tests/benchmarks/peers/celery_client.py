"""The peer `celery`: Celery alone. The module is the workers' application, and the client when it is run."""

from __future__ import annotations

import os
from typing import Any

from celery import Celery
from client_loop import PAYLOAD, run_blocking

URL = os.environ["BENCH_BROKER_URL"]
app = Celery("bare", broker=URL, backend=URL)
app.conf.broker_connection_retry_on_startup = True


@app.task(name="noop", ignore_result=True)
def noop(payload: dict[str, Any]) -> None:
    pass


@app.task(name="noop_with_result")
def noop_with_result(payload: dict[str, Any]) -> dict[str, Any]:
    return {"echo": None}


if __name__ == "__main__":
    run_blocking(lambda: noop.delay(PAYLOAD), lambda: noop_with_result.delay(PAYLOAD).get(timeout=30))
