"""A pause takes effect on every worker at once, and no loss of a broker, a relay or a worker ends it."""

from __future__ import annotations

import time
from collections.abc import Sequence

import httpx2
import redis

from tests.faults.conftest import Room

RESUME_SECONDS = 30
"""Within two seconds tasks start again; a busy machine needs longer."""


def _started(room: Room, tasks: Sequence[str]) -> int:
    ((count,),) = room.ask("SELECT count(*) FROM tasks WHERE id = ANY(%s::uuid[]) AND attempt > 0", (list(tasks),))
    return int(count)


def test_a_paused_queue_stays_paused_over_the_loss_of_broker_relay_and_workers(
    room: Room, client: httpx2.Client
) -> None:
    relay = room.relay()
    workers = [room.worker(concurrency=1) for _ in range(2)]
    # They last for ten seconds, so that on a busy machine, too, most of them are left at the pause.
    tasks = room.submit_many(client, 100, sleep_ms=200)
    room.eventually(lambda: _started(room, tasks) > 10)

    paused = client.post("/queues/files/pause")

    assert (paused.status_code, paused.json()["paused"]) == (200, True)
    room.eventually(lambda: client.get("/queues/files").json()["running"] == 0)
    started = _started(room, tasks)
    assert 10 < started < len(tasks)
    for process in [relay, *workers]:
        process.kill()
    with redis.Redis.from_url(room.settings.broker_url) as broker:
        broker.flushall()
    room.relay()
    worker = room.worker(concurrency=16)
    waiting = room.submit(client)
    # The relay publishes and the worker consumes: a task of another queue runs.
    room.wait_for(room.email(client), "succeeded")
    assert _started(room, tasks) == started
    explained = client.get(f"/tasks/{waiting}/waiting").json()
    assert (explained["status"], explained["reason"]) == ("queued", "paused")
    assert worker.poll() is None

    resumed_at = time.monotonic()
    assert client.post("/queues/files/resume").status_code == 200
    room.eventually(lambda: _started(room, tasks) > started)

    assert time.monotonic() - resumed_at < RESUME_SECONDS
    assert set(room.settle().values()) == {"succeeded"}


def test_other_kinds_of_its_queue_run_while_a_kind_is_paused_and_the_ttl_of_a_paused_task_ends(
    room: Room, client: httpx2.Client
) -> None:
    room.relay()
    room.worker()
    assert client.post("/kinds/platform.ping/pause").json()["paused"] is True
    paused = room.submit(client)
    expiring = room.submit(client, ttl=2)
    upload = client.post("/files", files={"file": ("a.txt", b"one\n")}).json()

    room.wait_for(room.note(upload["id"]), "succeeded")
    room.wait_for(expiring, "expired")

    assert client.get(f"/tasks/{paused}/waiting").json()["reason"] == "paused"
    assert client.post("/kinds/platform.ping/resume").json()["paused"] is False
    room.wait_for(paused, "succeeded")
    room.settle()
