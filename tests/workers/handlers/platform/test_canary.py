"""`platform.canary` goes through each queue, only the platform submits it, and readiness reports it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import psycopg
import pytest

from shared.contracts.kind import QUEUES, Queue
from shared.contracts.platform.canary import KIND, CanaryParams, CanaryResult
from tests.conftest import Api, Eventually, Parts
from workers.adapters.memory_context import MemoryContext
from workers.handlers.platform.canary import handle


@pytest.mark.parametrize("queue", QUEUES)
def test_a_canary_goes_through_the_queue_that_its_params_name(queue: Queue, tmp_path: Path) -> None:
    params = CanaryParams(queue=queue)

    assert KIND.queue_for(params) == queue
    assert handle(params, MemoryContext(tmp_path)) == CanaryResult()
    assert not KIND.public


def test_readiness_reports_the_age_and_round_trip_of_each_queues_canary(
    api: Api, parts: Parts, eventually: Eventually
) -> None:
    client = api.client_with(None)
    parts.start("relay")
    parts.start("beat")
    parts.start_worker("files")

    def checks() -> dict[str, Any]:
        found = client.get("/health/ready").json()["checks"]
        return {name: check for name, check in found.items() if name.startswith("queue:")}

    eventually(lambda: checks().get("queue:files", {}).get("round_trip_seconds"))
    with psycopg.connect(api.settings.database_url, autocommit=True) as connection:
        connection.execute(
            "UPDATE schedule_slots SET slot = slot - interval '61 s' WHERE task_id IN"
            " (SELECT id FROM tasks WHERE queue = 'email')"
        )
    # Readiness is remembered for two seconds.
    eventually(lambda: checks()["queue:email"]["status"] == "wrong")
    readiness = client.get("/health/ready")

    found = checks()
    assert found.keys() == {f"queue:{queue}" for queue in QUEUES}
    assert found["queue:files"]["status"] == "ok"
    assert 0 < found["queue:files"]["round_trip_seconds"] < 60
    # No canary has gone through for a minute, because the queue has no worker.
    assert (found["queue:email"]["status"], found["queue:email"]["round_trip_seconds"]) == ("wrong", None)
    assert (found["queue:reports"]["status"], readiness.status_code) == ("ok", 200)
    assert readiness.json()["status"] == "degraded"
