"""`GET /batches/<id>/events`: the counts of a batch as they change."""

from __future__ import annotations

from uuid import UUID

import httpx2
import pytest

from tests.api.conftest import ErrorsOf, ManualWorker
from tests.api.streaming.conftest import follow

MESSAGE = {"kind": "email.send", "params": {"to": ["ada@example.com"], "text": "hello"}}


def submit_batch(client: httpx2.Client, count: int) -> tuple[str, list[str]]:
    answer = client.post("/tasks/batch", json={"tasks": [MESSAGE] * count}).json()
    return answer["batch_id"], [task["id"] for task in answer["tasks"]]


def test_counts_are_sent_as_they_change_until_all_tasks_are_done(
    client: httpx2.Client, manual_worker: ManualWorker
) -> None:
    batch_id, (first, second) = submit_batch(client, 2)

    with follow(client, f"/batches/{batch_id}/events") as messages:
        seen = [next(messages)]
        manual_worker.claim(first)
        seen.append(next(messages))
        manual_worker.end(first, "succeeded", result={})
        seen.append(next(messages))
        manual_worker.succeed(second)
        seen += list(messages)

    assert {event.type for event in seen} == {"counts"}
    assert [event.data["counts"] for event in seen[:3]] == [
        {"queued": 2},
        {"queued": 1, "running": 1},
        {"queued": 1, "succeeded": 1},
    ]
    assert seen[-1].data == client.get(f"/batches/{batch_id}").json()
    assert seen[-1].data["counts"] == {"succeeded": 2}
    versions = [int(event.id) for event in seen]
    assert versions == sorted(set(versions))


def test_a_client_with_the_last_counts_of_a_done_batch_is_answered_204(
    client: httpx2.Client, manual_worker: ManualWorker
) -> None:
    batch_id, (only,) = submit_batch(client, 1)
    with follow(client, f"/batches/{batch_id}/events") as messages:
        early = next(messages)
    manual_worker.succeed(only)
    with follow(client, f"/batches/{batch_id}/events", headers={"Last-Event-ID": early.id}) as messages:
        (last,) = messages

    answer = client.get(f"/batches/{batch_id}/events", params={"last_event_id": last.id})

    assert last.data["counts"] == {"succeeded": 1}
    assert (answer.status_code, answer.content) == (204, b"")


def test_a_foreign_or_missing_batch_is_not_found(client: httpx2.Client, stranger: httpx2.Client) -> None:
    batch_id, _ = submit_batch(client, 1)

    assert stranger.get(f"/batches/{batch_id}/events").status_code == 404
    assert stranger.get(f"/batches/{UUID(int=7)}/events").status_code == 404


@pytest.mark.parametrize("value", ["-1", "x", "9" * 30])
def test_an_id_that_no_message_has_is_refused(client: httpx2.Client, errors_of: ErrorsOf, value: str) -> None:
    batch_id, _ = submit_batch(client, 1)

    answer = client.get(f"/batches/{batch_id}/events", params={"last_event_id": value})

    assert errors_of(answer) == {"query:last_event_id": "int_parsing"}
