"""A burst of requests to APIs with two database connections each, during a rolling restart by SIGTERM."""

from __future__ import annotations

import os
import signal
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import httpx2

from tests.faults.conftest import Room

TASKS = int(os.environ.get("TEST_BURST_TASKS", "800"))
CLIENTS = 8


def test_a_burst_during_a_rolling_restart_loses_and_repeats_no_task(room: Room) -> None:
    small_pool = {"TASKMILL_DATABASE_POOL_SIZE": "2"}
    servers = [room.api(**small_pool) for _ in range(2)]
    room.relay()
    room.worker(concurrency=8)
    outcomes: Counter[int | str] = Counter()
    lock = threading.Lock()

    def submit(number: int) -> None:
        """Repeat the request with the same key, at either server, until it is accepted."""
        for attempt in range(200):
            _, client = servers[(number + attempt) % 2]
            try:
                answer = client.post(
                    "/tasks",
                    json={"kind": "platform.ping", "params": {}},
                    headers={"Idempotency-Key": f"burst-{number}"},
                )
            except httpx2.HTTPError as error:
                outcome: int | str = type(error).__name__
            else:
                outcome = answer.status_code
            with lock:
                outcomes[outcome] += 1
                if outcome == 202:
                    room.note(answer.json()["id"])
                    return
        raise AssertionError("never taken")

    with ThreadPoolExecutor(CLIENTS) as clients:
        work = [clients.submit(submit, number) for number in range(TASKS)]
        for position in range(2):
            room.eventually(lambda n=position: outcomes[202] >= TASKS * (1 + n) // 4)
            process, _ = servers[position]
            process.send_signal(signal.SIGTERM)
            room.eventually(lambda stopped=process: stopped.poll() is not None)
            servers[position] = room.api(**small_pool)
        for done in work:
            done.result()

    statuses = room.settle()

    assert len(room.accepted) == TASKS
    assert set(statuses.values()) == {"succeeded"}
    assert {outcome for outcome in outcomes if isinstance(outcome, int)} <= {202, 503}
    assert room.ask("SELECT count(*), max(attempt) FROM tasks") == [(TASKS, 1)]
