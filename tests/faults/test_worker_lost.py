"""Workers that die, hang, or go on after their lease is over."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import httpx2
import pytest

from tests.faults.conftest import MailServer, Room

DATA = Path(__file__).resolve().parents[1] / "data"
LEASE_SECONDS = 1.0


@pytest.fixture
def patient_room(room: Room) -> Room:
    """A room with a lease that is long compared with the delays of a busy machine."""
    room.settings = room.parts.settings = room.settings.model_copy(update={"lease_seconds": 3.0})
    return room


def test_another_worker_runs_the_task_of_one_that_died_after_the_claim(
    patient_room: Room, client: httpx2.Client
) -> None:
    room = patient_room
    room.relay()
    dying = room.worker(kill="after-claim")
    task_id = room.submit(client)
    room.wait_for_death(dying)
    died_at = time.monotonic()

    room.wait_until_lost(task_id)
    taken_back_after = time.monotonic() - died_at
    room.worker()

    assert room.settle()[task_id] == "succeeded"
    assert room.attempts(task_id) == 2
    assert taken_back_after < 3 * room.settings.lease_seconds


@pytest.mark.parametrize(
    ("moment", "sent", "outcome", "error"),
    [
        ("after-intent", 0, "failed", "/problems/delivery-unknown"),
        ("after-smtp-accept", 1, "failed", "/problems/delivery-unknown"),
        ("after-receipt", 1, "succeeded", None),
    ],
)
def test_an_email_of_a_worker_that_died_is_sent_once_or_unknown(
    room: Room, client: httpx2.Client, mail: MailServer, moment: str, sent: int, outcome: str, error: str | None
) -> None:
    room.relay()
    dying = room.worker(kill=moment)
    task_id = room.email(client)
    room.wait_for_death(dying)
    room.worker()

    assert room.settle()[task_id] == outcome
    assert room.error_type(task_id) == error
    assert len(mail.recipients) == sent


def test_a_retry_by_a_person_sends_an_unknown_email_once(room: Room, client: httpx2.Client, mail: MailServer) -> None:
    room.relay()
    dying = room.worker(kill="after-smtp-accept")
    task_id = room.email(client)
    room.wait_for_death(dying)
    room.worker()
    room.settle()

    assert client.post(f"/tasks/{task_id}/retry").status_code == 202

    assert room.settle()[task_id] == "succeeded"
    assert len(mail.recipients) == 2


def test_an_artifact_of_a_worker_that_died_cannot_be_downloaded(patient_room: Room, client: httpx2.Client) -> None:
    room = patient_room
    room.relay()
    dying = room.worker(kill="before-finish")
    with (DATA / "rocket.jpg").open("rb") as file:
        task = (
            '{"kind": "files.make_images", "params": {"variants": [{"name": "small", "width": 32, "format": "jpeg"}]}}'
        )
        answer = client.post("/files", data={"task": task}, files={"file": ("rocket.jpg", file)})
    task_id = room.note(answer.json()["id"])
    room.wait_for_death(dying)
    room.worker()

    assert room.settle()[task_id] == "succeeded"
    assert room.attempts(task_id) == 2
    assert room.ask("SELECT count(*) FROM files WHERE task_id = %s", (task_id,)) == [(1,)]


def test_a_worker_that_was_frozen_past_its_lease_writes_nothing(room: Room, client: httpx2.Client) -> None:
    room.relay()
    stopped = room.worker(kill="before-finish:1:stop")
    task_id = room.submit(client)
    room.wait_until_lost(task_id)
    room.worker()
    room.wait_for(task_id, "succeeded")
    before = room.ask("SELECT * FROM tasks WHERE id = %s", (task_id,))

    stopped.send_signal(signal.SIGCONT)
    room.eventually(lambda: "finish_not_written" in room.parts.logs())

    assert room.settle()[task_id] == "succeeded"
    assert room.ask("SELECT * FROM tasks WHERE id = %s", (task_id,)) == before


def test_an_email_worker_that_was_frozen_past_its_lease_sends_nothing(
    room: Room, client: httpx2.Client, mail: MailServer
) -> None:
    room.relay()
    stopped = room.worker(kill="after-intent:1:stop")
    task_id = room.email(client)
    room.wait_until_lost(task_id)
    room.worker()
    room.wait_for(task_id, "failed")

    stopped.send_signal(signal.SIGCONT)
    room.eventually(lambda: "claim_lost" in room.parts.logs())

    assert room.settle()[task_id] == "failed"
    assert room.error_type(task_id) == "/problems/delivery-unknown"
    assert mail.recipients == []


def test_a_poison_task_fails_after_its_attempts_and_its_neighbours_finish(room: Room, client: httpx2.Client) -> None:
    room.relay()
    poison = room.submit(client, params={"sleep_ms": 60_000}, max_attempts=2)
    neighbours = room.submit_many(client, 30, sleep_ms=5)

    for _ in range(2):
        worker = room.worker()
        # On a busy machine, a worker that lives may lose its lease too.
        room.wait_for(poison, "running", "failed")
        os.kill(worker.pid, signal.SIGKILL)
        room.wait_for(poison, "retrying", "queued", "failed")
    room.worker()

    statuses = room.settle()
    assert statuses[poison] == "failed"
    assert room.error_type(poison) == "/problems/worker-lost"
    assert {statuses[task_id] for task_id in neighbours} == {"succeeded"}
