"""`unique_for`: no task is stored while there is a live one of the same owner, kind and params."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2
import pytest

from shared.identifiers import new_id
from tests.api.conftest import ErrorsOf, ManualWorker
from tests.conftest import Api


def submit(client: httpx2.Client, echo: str, unique_for: int = 60, **headers: str) -> httpx2.Response:
    body = {"kind": "platform.ping", "params": {"echo": echo}, "unique_for": unique_for}
    return client.post("/tasks", json=body, headers=headers)


def test_unique_for_answers_a_live_task_instead_of_a_new_one(operator: httpx2.Client) -> None:
    first, second = submit(operator, "a"), submit(operator, "a")

    assert (first.status_code, second.status_code) == (202, 200)
    assert second.json()["id"] == first.json()["id"]
    assert second.headers["location"] == f"/tasks/{first.json()['id']}"


def test_unique_params_are_compared_in_canonical_form_with_defaults(operator: httpx2.Client) -> None:
    bodies: list[dict[str, Any]] = [
        {"echo": "b"},
        {"sleep_ms": 0, "echo": "b"},
        {"queue": "files", "echo": "b", "sleep_ms": 0},
    ]

    answers = [
        operator.post("/tasks", json={"kind": "platform.ping", "params": params, "unique_for": 60, "priority": n})
        for n, params in enumerate(bodies)
    ]

    assert [answer.status_code for answer in answers] == [202, 200, 200]


def test_unique_for_applies_to_one_caller_kind_and_params(served: Api, operator: httpx2.Client) -> None:
    first = submit(operator, "c")

    others = [submit(operator, "C"), submit(served.client("admin", "admin"), "c")]

    assert {answer.status_code for answer in [first, *others]} == {202}


def test_a_task_without_unique_for_is_not_answered_instead(operator: httpx2.Client) -> None:
    operator.post("/tasks", json={"kind": "platform.ping", "params": {"echo": "plain"}})

    assert submit(operator, "plain").status_code == 202


@pytest.mark.parametrize("end", ["succeed", "fail", "cancel"])
def test_a_done_task_is_not_answered_instead_of_a_new_one(
    operator: httpx2.Client, manual_worker: ManualWorker, end: str
) -> None:
    echo = str(new_id())
    task_id = submit(operator, echo).json()["id"]
    if end == "cancel":
        operator.post(f"/tasks/{task_id}/cancel")
    else:
        getattr(manual_worker, end)(task_id)

    again = submit(operator, echo)

    assert again.status_code == 202
    assert again.json()["id"] != task_id


def test_a_task_older_than_unique_for_is_not_answered_instead(
    operator: httpx2.Client, manual_worker: ManualWorker
) -> None:
    task_id = submit(operator, "old").json()["id"]
    manual_worker.connection.execute(
        "UPDATE unique_tasks SET created_at = created_at - interval '61 seconds' WHERE task_id = %s", [task_id]
    )

    assert submit(operator, "old", unique_for=120).status_code == 200
    assert submit(operator, "old", unique_for=60).status_code == 202


def test_a_deleted_task_is_not_answered_instead_of_a_new_one(
    operator: httpx2.Client, manual_worker: ManualWorker
) -> None:
    task_id = submit(operator, "deleted").json()["id"]
    manual_worker.succeed(task_id)
    operator.delete(f"/tasks/{task_id}")

    assert submit(operator, "deleted").status_code == 202


def test_concurrent_unique_submissions_store_one_task(operator: httpx2.Client) -> None:
    for _ in range(3):
        echo = str(new_id())
        with ThreadPoolExecutor(20) as threads:
            answers = list(threads.map(lambda _, echo=echo: submit(operator, echo), range(20)))  # type: ignore[misc]

        assert sorted(answer.status_code for answer in answers) == [200] * 19 + [202]
        assert len({answer.json()["id"] for answer in answers}) == 1


def test_an_idempotency_key_is_stored_with_the_live_task_of_a_unique_submission(
    operator: httpx2.Client, manual_worker: ManualWorker
) -> None:
    key = {"Idempotency-Key": str(new_id())}
    live = submit(operator, "keyed").json()["id"]

    answered = submit(operator, "keyed", **key)
    manual_worker.succeed(live)
    again = submit(operator, "keyed", **key)
    other = submit(operator, "other", **key)

    assert (answered.status_code, answered.json()["id"]) == (200, live)
    assert (again.status_code, again.json()["id"]) == (200, live)
    assert again.headers["idempotency-replayed"] == "true"
    assert other.json()["type"] == "/problems/idempotency-key-reused"


def test_concurrent_requests_with_one_key_store_one_task(operator: httpx2.Client) -> None:
    key, echo = {"Idempotency-Key": str(new_id())}, str(new_id())

    with ThreadPoolExecutor(20) as threads:
        answers = list(threads.map(lambda _: submit(operator, echo, **key), range(20)))

    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.json()["id"] for answer in answers}) == 1


def test_unique_for_is_refused_in_a_batch_and_an_upload(operator: httpx2.Client, errors_of: ErrorsOf) -> None:
    batch = {"tasks": [{"kind": "platform.ping"}, {"kind": "platform.ping", "unique_for": 60}]}
    form = {"task": (None, '{"kind": "files.inspect", "unique_for": 60}'), "file": ("a.txt", b"hello")}

    assert list(errors_of(operator.post("/tasks/batch", json=batch))) == ["/tasks/1/unique_for"]
    assert list(errors_of(operator.post("/files", files=form))) == ["form:task/unique_for"]


def test_unique_for_works_for_reports_and_emails(operator: httpx2.Client) -> None:
    body = {"to": ["ada@example.com"], "text": "once", "unique_for": 60}

    first, second = operator.post("/emails", json=body), operator.post("/emails", json=body)

    assert (first.status_code, second.status_code) == (202, 200)
    assert first.json()["id"] == second.json()["id"]
