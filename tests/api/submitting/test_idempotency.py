"""`Idempotency-Key`: a request that is repeated with the same key is stored once."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2
import pytest

from shared.identifiers import new_id
from tests.api.conftest import ErrorsOf, ManualWorker
from tests.conftest import Api

EMAIL = {"to": ["ada@example.com"], "text": "hello"}
SUBMISSIONS: list[tuple[str, dict[str, Any]]] = [
    ("/tasks", {"kind": "platform.ping", "params": {"echo": "x"}}),
    ("/tasks/batch", {"tasks": [{"kind": "platform.ping"}, {"kind": "platform.ping"}]}),
    ("/emails", EMAIL),
]


def under(key: str) -> dict[str, str]:
    return {"Idempotency-Key": key}


def subject_of(answer: httpx2.Response) -> str:
    body = answer.json()
    return str(body.get("batch_id") or body["id"]) if "tasks" in body else str(body["id"])


@pytest.mark.parametrize(("path", "body"), SUBMISSIONS)
def test_a_repeated_request_is_answered_with_the_same_task(
    operator: httpx2.Client, manual_worker: ManualWorker, path: str, body: dict[str, Any]
) -> None:
    key = under(str(new_id()))

    first = operator.post(path, json=body, headers=key)
    before = manual_worker.count("SELECT count(*) FROM tasks")
    again = operator.post(path, json=body, headers=key)

    assert (first.status_code, again.status_code) == (202, 202)
    assert subject_of(again) == subject_of(first)
    assert again.headers["location"] == first.headers["location"]
    assert again.headers["idempotency-replayed"] == "true"
    assert again.headers["retry-after"] == "1"
    assert "idempotency-replayed" not in first.headers
    assert manual_worker.count("SELECT count(*) FROM tasks") == before


def test_a_replay_shows_the_task_as_it_is_now(operator: httpx2.Client, manual_worker: ManualWorker) -> None:
    key = under(str(new_id()))
    task_id = operator.post("/tasks", json={"kind": "platform.ping"}, headers=key).json()["id"]
    manual_worker.succeed(task_id)

    again = operator.post("/tasks", json={"kind": "platform.ping"}, headers=key)

    assert (again.status_code, again.json()["id"], again.json()["status"]) == (202, task_id, "succeeded")


def test_order_of_fields_and_white_space_do_not_change_the_fingerprint(operator: httpx2.Client) -> None:
    key = {**under(str(new_id())), "content-type": "application/json"}

    first = operator.post("/tasks", content=b'{"kind":"platform.ping","priority":3}', headers=key)
    again = operator.post("/tasks", content=b'{ "priority": 3, "kind": "platform.ping" }', headers=key)

    assert again.json()["id"] == first.json()["id"]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/tasks", {"kind": "platform.ping", "priority": 3}),
        ("/tasks", {"kind": "platform.ping", "params": {"echo": "y"}}),
        ("/emails", EMAIL),
        ("/tasks/batch", {"tasks": [{"kind": "platform.ping"}]}),
        ("/tasks", {"kind": "platform.ping", "unique_for": 60}),
    ],
)
def test_another_request_under_the_same_key_is_refused(
    operator: httpx2.Client, path: str, body: dict[str, Any]
) -> None:
    key = under(str(new_id()))
    operator.post("/tasks", json={"kind": "platform.ping"}, headers=key)

    answer = operator.post(path, json=body, headers=key)

    assert answer.status_code == 422
    assert answer.json()["type"] == "/problems/idempotency-key-reused"


@pytest.mark.parametrize(("path", "body"), SUBMISSIONS)
def test_concurrent_requests_with_one_key_store_one_task(
    operator: httpx2.Client, path: str, body: dict[str, Any]
) -> None:
    for _ in range(3):
        key = under(str(new_id()))
        with ThreadPoolExecutor(20) as threads:
            answers = list(threads.map(lambda _, key=key: operator.post(path, json=body, headers=key), range(20)))  # type: ignore[misc]

        assert {answer.status_code for answer in answers} <= {202, 409}
        made = {subject_of(answer) for answer in answers if answer.status_code == 202}
        assert len(made) == 1
        assert all(answer.headers["retry-after"] for answer in answers)
        firsts = [a for a in answers if a.status_code == 202 and "idempotency-replayed" not in a.headers]
        assert len(firsts) == 1


def test_many_tasks_that_are_committed_together_keep_their_keys_apart(operator: httpx2.Client) -> None:
    keys = [str(new_id()) for _ in range(40)]

    with ThreadPoolExecutor(20) as threads:
        submit = lambda key: operator.post("/tasks", json={"kind": "platform.ping"}, headers=under(key))  # noqa: E731
        ids = [answer.json()["id"] for answer in threads.map(submit, keys)]
        again = [answer.json()["id"] for answer in threads.map(submit, keys)]

    assert len(set(ids)) == 40
    assert again == ids


def test_the_same_key_of_another_caller_is_independent(client: httpx2.Client, stranger: httpx2.Client) -> None:
    key = under(str(new_id()))

    mine = client.post("/emails", json=EMAIL, headers=key)
    theirs = stranger.post("/emails", json={**EMAIL, "subject": "other"}, headers=key)

    assert (mine.status_code, theirs.status_code) == (202, 202)
    assert mine.json()["id"] != theirs.json()["id"]


def test_a_second_key_of_the_same_caller_replays_too(served: Api, client: httpx2.Client) -> None:
    key = under(str(new_id()))

    first = client.post("/emails", json=EMAIL, headers=key)
    again = served.client("someone").post("/emails", json=EMAIL, headers=key)

    assert again.json()["id"] == first.json()["id"]


def test_a_refused_request_does_not_use_up_its_key(operator: httpx2.Client) -> None:
    key = under(str(new_id()))

    refused = operator.post("/tasks", json={"kind": "no.such"}, headers=key)
    validated = operator.post("/tasks?validate_only=true", json={"kind": "platform.ping"}, headers=key)
    taken = operator.post("/tasks", json={"kind": "platform.ping"}, headers=key)

    assert (refused.status_code, validated.status_code, taken.status_code) == (422, 200, 202)
    assert "idempotency-replayed" not in taken.headers


def test_a_key_is_free_again_after_a_day(operator: httpx2.Client, manual_worker: ManualWorker) -> None:
    key = str(new_id())
    batch = {"tasks": [{"kind": "platform.ping"}]}
    first = operator.post("/tasks", json={"kind": "platform.ping"}, headers=under(key))
    manual_worker.connection.execute(
        "UPDATE idempotency_keys SET created_at = now() - interval '24 hours 1 second' WHERE key = %s", [key]
    )

    second = operator.post("/tasks", json={"kind": "platform.ping", "priority": 1}, headers=under(key))
    manual_worker.connection.execute(
        "UPDATE idempotency_keys SET created_at = now() - interval '24 hours 1 second' WHERE key = %s", [key]
    )
    third = operator.post("/tasks/batch", json=batch, headers=under(key))

    assert (first.status_code, second.status_code, third.status_code) == (202, 202, 202)
    assert second.json()["id"] != first.json()["id"]


def test_a_key_whose_request_is_in_flight_is_refused_with_409(
    operator: httpx2.Client, served: Api, manual_worker: ManualWorker
) -> None:
    key, owner = str(new_id()), served.key("operator", "operator").caller_id
    manual_worker.connection.execute(
        "INSERT INTO idempotency_keys (owner_id, key, in_flight_until) VALUES (%s, %s, now() + interval '1 minute')",
        [owner, key],
    )

    for path, body in SUBMISSIONS:
        answer = operator.post(path, json=body, headers=under(key))

        assert answer.status_code == 409
        assert answer.json()["type"] == "/problems/idempotency-key-in-flight"
        assert int(answer.headers["retry-after"]) >= 1


def test_a_replay_of_a_deleted_task_is_410(operator: httpx2.Client, manual_worker: ManualWorker) -> None:
    key = under(str(new_id()))
    task_id = operator.post("/tasks", json={"kind": "platform.ping"}, headers=key).json()["id"]
    manual_worker.succeed(task_id)
    operator.delete(f"/tasks/{task_id}")

    again = operator.post("/tasks", json={"kind": "platform.ping"}, headers=key)

    assert (again.status_code, again.json()["type"]) == (410, "/problems/gone")


@pytest.mark.parametrize("path", ["/tasks", "/tasks/batch"])
def test_a_replay_does_not_need_the_input_files(operator: httpx2.Client, path: str) -> None:
    uploaded = operator.post("/files", files={"file": ("a.txt", b"some text")}).json()
    file_id = uploaded["params"]["file_id"]
    task = {"kind": "files.inspect", "params": {"file_id": file_id}}
    body = {"tasks": [task]} if path == "/tasks/batch" else task
    key = under(str(new_id()))
    first = operator.post(path, json=body, headers=key)
    made = first.json()["tasks"][0] if path == "/tasks/batch" else first.json()
    for task_id in (uploaded["id"], made["id"]):
        operator.post(f"/tasks/{task_id}/cancel")
    assert operator.delete(f"/files/{file_id}").status_code == 204

    again, anew = operator.post(path, json=body, headers=key), operator.post(path, json=body)

    assert (again.status_code, subject_of(again)) == (202, subject_of(first))
    assert again.headers["idempotency-replayed"] == "true"
    assert anew.status_code == 422
    assert operator.post(path, json=body, headers=under(str(new_id()))).status_code == 422


@pytest.mark.parametrize("key", ["", "a b", "x" * 256, "ü".encode(), b"a\tb"])
@pytest.mark.parametrize(("path", "body"), SUBMISSIONS)
def test_an_invalid_key_is_refused(
    operator: httpx2.Client, errors_of: ErrorsOf, key: str | bytes, path: str, body: dict[str, Any]
) -> None:
    raw = key if isinstance(key, bytes) else key.encode()

    for query in ("", "?validate_only=true"):
        answer = operator.post(path + query, json=body, headers=[(b"idempotency-key", raw)])

        assert errors_of(answer) == {"header:Idempotency-Key": "invalid_key"}


@pytest.mark.parametrize(("path", "body"), SUBMISSIONS)
def test_two_idempotency_key_headers_are_refused(
    operator: httpx2.Client, errors_of: ErrorsOf, path: str, body: dict[str, Any]
) -> None:
    answer = operator.post(path, json=body, headers=[(b"idempotency-key", b"a"), (b"idempotency-key", b"b")])

    assert errors_of(answer) == {"header:Idempotency-Key": "invalid_key"}


def test_the_longest_key_is_accepted(operator: httpx2.Client) -> None:
    key = under("~" * 250 + "!@#$%")

    first = operator.post("/tasks", json={"kind": "platform.ping"}, headers=key)
    again = operator.post("/tasks", json={"kind": "platform.ping"}, headers=key)

    assert first.json()["id"] == again.json()["id"]
