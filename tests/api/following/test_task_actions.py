"""A task as it is shown in each status, and cancelling, retrying and deleting it."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from uuid import UUID

import httpx2
import pytest

from shared.identifiers import new_id
from tests.api.conftest import ManualWorker, Submit
from tests.conftest import Api, Eventually, Parts

FIELDS = [
    *("id", "kind", "queue", "status", "done", "progress", "attempt", "max_attempts", "next_attempt_at", "priority"),
    *("params", "result", "error", "artifacts", "tags", "metadata", "batch_id", "workflow_id", "workflow_step"),
    *("rerun_of", "parent_id", "schedule_id", "concurrency", "rate", "created_at", "run_at"),
    *("started_at", "finished_at", "cancel_requested_at", "purge_at", "links"),
]
TIMED_OUT = {
    "type": "/problems/timed-out",
    "title": "Timed out",
    "detail": "The attempt took longer than 300 seconds.",
    "retryable": True,
    "attempt": 1,
    "data": {},
}
ERROR_FIELDS = ["attempt", "data", "detail", "retryable", "title", "type"]


def problem_of(answer: httpx2.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["type"].removeprefix("/problems/")


def test_a_task_shows_a_client_exactly_what_the_contract_names(client: httpx2.Client, email: Submit) -> None:
    task_id = email()

    task = client.get(f"/tasks/{task_id}").json()

    assert list(task) == FIELDS
    assert task["links"] == {
        "self": f"/tasks/{task_id}",
        "events": f"/tasks/{task_id}/events",
        "cancel": f"/tasks/{task_id}/cancel",
        "rerun": f"/tasks/{task_id}/rerun",
        "reruns": f"/tasks?rerun_of={task_id}",
    }


def test_operators_also_see_who_submitted_a_task_and_which_worker_claimed_it(
    client: httpx2.Client, operator: httpx2.Client, admin: httpx2.Client, manual_worker: ManualWorker, email: Submit
) -> None:
    task_id = email(tags=["origin"])
    manual_worker.claim(task_id)

    shown = [
        operator.get(f"/tasks/{task_id}").json(),
        admin.get(f"/tasks/{task_id}").json(),
        operator.get("/tasks", params={"tag": "origin"}).json()["items"][0],
        operator.post(f"/tasks/{task_id}/cancel").json(),
    ]

    for task in shown:
        assert list(task) == [*FIELDS, "owner", "api_key_name", "worker"]
        assert (task["owner"]["name"], task["api_key_name"], task["worker"]) == ("someone", "someone", "a test")
    assert UUID(shown[0]["owner"]["id"])
    assert list(client.get(f"/tasks/{task_id}").json()) == FIELDS


def test_a_running_task_shows_its_attempt_and_progress(
    operator: httpx2.Client, manual_worker: ManualWorker, ping: Submit
) -> None:
    task_id = ping()
    manual_worker.claim(task_id)
    manual_worker.report(task_id, 40, "2 of 5")

    task = operator.get(f"/tasks/{task_id}").json()

    assert (task["status"], task["done"], task["attempt"]) == ("running", False, 1)
    assert task["progress"] == {"percent": 40, "message": "2 of 5"}
    assert task["started_at"] and task["finished_at"] is None and task["purge_at"] is None


def test_a_succeeded_task_has_a_result_and_no_error(
    operator: httpx2.Client, manual_worker: ManualWorker, ping: Submit
) -> None:
    task_id = ping(keep_for=60)
    manual_worker.succeed(task_id)

    task = operator.get(f"/tasks/{task_id}").json()

    assert (task["status"], task["done"], task["error"]) == ("succeeded", True, None)
    assert task["result"] == {"echo": None}
    assert task["finished_at"] and task["purge_at"] > task["finished_at"]


def test_a_retrying_task_shows_its_last_error_until_it_is_queued_again(
    operator: httpx2.Client, manual_worker: ManualWorker, ping: Submit
) -> None:
    task_id = ping()
    manual_worker.claim(task_id)
    manual_worker.end(task_id, "retrying", result={"half": "done"}, error=TIMED_OUT, delay=0)

    retrying = operator.get(f"/tasks/{task_id}").json()
    manual_worker.promote()
    queued = operator.get(f"/tasks/{task_id}").json()

    assert (retrying["status"], retrying["done"], retrying["result"]) == ("retrying", False, None)
    assert retrying["error"] == TIMED_OUT
    assert retrying["next_attempt_at"]
    assert (queued["status"], queued["error"]) == ("queued", None)


def test_a_failed_or_cancelled_task_has_an_error_and_no_result(
    operator: httpx2.Client, manual_worker: ManualWorker, ping: Submit
) -> None:
    failed, cancelled = ping(), ping()
    manual_worker.fail(failed)
    operator.post(f"/tasks/{cancelled}/cancel")

    for task_id, status, name in [(failed, "failed", "worker-lost"), (cancelled, "cancelled", "cancelled")]:
        task = operator.get(f"/tasks/{task_id}").json()
        assert (task["status"], task["done"], task["result"]) == (status, True, None)
        assert sorted(task["error"]) == ERROR_FIELDS
        assert task["error"]["type"] == f"/problems/{name}"


# Cancel


@pytest.mark.parametrize("options", [{}, {"delay": 3600}], ids=["queued", "scheduled"])
def test_a_queued_or_scheduled_task_is_cancelled_at_once_and_never_starts(
    operator: httpx2.Client, manual_worker: ManualWorker, ping: Submit, options: dict[str, Any]
) -> None:
    task_id = ping(**options)

    answer = operator.post(f"/tasks/{task_id}/cancel")

    assert (answer.status_code, answer.json()["status"], answer.json()["done"]) == (202, "cancelled", True)
    assert answer.json()["cancel_requested_at"] and answer.json()["finished_at"]
    assert "retry-after" not in answer.headers
    assert not manual_worker.claim(task_id)


def test_a_retrying_task_is_cancelled_at_once(
    operator: httpx2.Client, manual_worker: ManualWorker, ping: Submit
) -> None:
    task_id = ping()
    manual_worker.claim(task_id)
    manual_worker.end(task_id, "retrying", error={"type": "/problems/timed-out"}, delay=60)

    task = operator.post(f"/tasks/{task_id}/cancel").json()

    assert (task["status"], task["next_attempt_at"], task["error"]["attempt"]) == ("cancelled", None, 1)


def test_cancelling_a_running_task_can_be_repeated(
    operator: httpx2.Client, manual_worker: ManualWorker, ping: Submit
) -> None:
    task_id = ping()
    manual_worker.claim(task_id)

    first = operator.post(f"/tasks/{task_id}/cancel")
    second = operator.post(f"/tasks/{task_id}/cancel")

    assert (first.status_code, second.status_code) == (202, 202)
    assert first.json()["status"] == second.json()["status"] == "running"
    assert first.json()["cancel_requested_at"] == second.json()["cancel_requested_at"] is not None
    assert first.headers["etag"] == second.headers["etag"]
    assert first.headers["retry-after"]
    assert manual_worker.renew(task_id), "the worker hears of it at its next heartbeat"
    assert manual_worker.end(task_id, "retrying", error={"type": "/problems/timed-out"}, delay=1) == "cancelled"


def test_a_task_can_succeed_after_its_cancel_was_requested(
    operator: httpx2.Client, manual_worker: ManualWorker, ping: Submit
) -> None:
    task_id = ping()
    manual_worker.claim(task_id)
    operator.post(f"/tasks/{task_id}/cancel")

    manual_worker.end(task_id, "succeeded", result={"echo": None})

    task = operator.get(f"/tasks/{task_id}").json()
    assert (task["status"], task["result"], task["error"]) == ("succeeded", {"echo": None}, None)


def test_a_done_task_cannot_be_cancelled(operator: httpx2.Client, manual_worker: ManualWorker, ping: Submit) -> None:
    succeeded, failed, cancelled = ping(), ping(), ping()
    manual_worker.succeed(succeeded)
    manual_worker.fail(failed)
    operator.post(f"/tasks/{cancelled}/cancel")

    for task_id in (succeeded, failed, cancelled):
        assert problem_of(operator.post(f"/tasks/{task_id}/cancel")) == (409, "task-done")


def test_a_running_attempt_stops_within_two_heartbeats_of_a_cancel(
    api: Api, engine_room: Parts, eventually: Eventually
) -> None:
    client = api.client("operator", "operator")
    task_id = client.post("/tasks", json={"kind": "platform.ping", "params": {"sleep_ms": 60_000}}).json()["id"]
    eventually(lambda: client.get(f"/tasks/{task_id}").json()["status"] == "running")

    client.post(f"/tasks/{task_id}/cancel")
    # There are three heartbeats in a lease of two seconds. The rest is for a busy machine.
    followed = client.get(f"/tasks/{task_id}", params={"wait": 15}).json()

    assert followed["status"] == "cancelled", engine_room.logs()
    assert followed["error"]["type"] == "/problems/cancelled"


# Retry


@pytest.mark.parametrize("end", ["failed", "cancelled", "expired"])
def test_a_failed_cancelled_or_expired_task_is_queued_by_a_retry(
    operator: httpx2.Client, manual_worker: ManualWorker, ping: Submit, end: str
) -> None:
    task_id = ping(delay=0, ttl=3600, max_attempts=1, tags=["kept"])
    if end == "failed":
        manual_worker.fail(task_id)
    elif end == "cancelled":
        operator.post(f"/tasks/{task_id}/cancel")
    else:
        manual_worker.connection.execute(
            "UPDATE tasks SET status = 'expired', finished_at = now(), purge_at = now() WHERE id = %s", [task_id]
        )
    before = operator.get(f"/tasks/{task_id}")

    answer = operator.post(f"/tasks/{task_id}/retry")

    task = answer.json()
    assert (answer.status_code, task["status"], task["done"]) == (202, "queued", False)
    assert (task["max_attempts"], task["attempt"]) == (1 + 3, before.json()["attempt"])
    for cleared in ("run_at", "error", "finished_at", "cancel_requested_at", "purge_at", "next_attempt_at", "progress"):
        assert task[cleared] is None
    assert task["tags"] == ["kept"] and task["created_at"] == before.json()["created_at"]
    assert int(answer.headers["etag"].strip('"')) > int(before.headers["etag"].strip('"'))
    assert (
        manual_worker.count("SELECT count(*) FROM tasks WHERE id = %s AND ttl IS NULL AND expires_at IS NULL", task_id)
        == 1
    )
    manual_worker.succeed(task_id)


def test_only_a_failed_cancelled_or_expired_task_can_be_retried(
    operator: httpx2.Client, manual_worker: ManualWorker, ping: Submit
) -> None:
    queued, running, succeeded, waiting = ping(), ping(), ping(), ping(delay=60)
    manual_worker.claim(running)
    manual_worker.succeed(succeeded)

    for task_id in (queued, running, succeeded, waiting):
        assert problem_of(operator.post(f"/tasks/{task_id}/retry")) == (409, "task-not-retriable")


def test_a_task_can_be_retried_up_to_a_thousand_attempts(
    operator: httpx2.Client, manual_worker: ManualWorker, ping: Submit
) -> None:
    task_id = ping()
    operator.post(f"/tasks/{task_id}/cancel")
    manual_worker.connection.execute("UPDATE tasks SET max_attempts = 999 WHERE id = %s", [task_id])

    assert problem_of(operator.post(f"/tasks/{task_id}/retry")) == (409, "task-not-retriable")


def test_a_task_whose_input_is_gone_cannot_be_retried(
    client: httpx2.Client, manual_worker: ManualWorker, data: Path
) -> None:
    with (data / "coffee.png").open("rb") as file:
        task = client.post("/files", files={"file": ("coffee.png", file)}).json()
    manual_worker.fail(task["id"])
    assert client.delete(f"/files/{task['params']['file_id']}").status_code == 204

    answer = client.post(f"/tasks/{task['id']}/retry")

    assert problem_of(answer) == (409, "input-gone")
    assert client.get(f"/tasks/{task['id']}").json()["status"] == "failed"


def test_a_task_whose_params_no_longer_fit_its_kind_cannot_be_retried(
    operator: httpx2.Client, manual_worker: ManualWorker, ping: Submit
) -> None:
    task_id = ping()
    manual_worker.fail(task_id)
    manual_worker.connection.execute("UPDATE task_payloads SET params = '{\"gone\": 1}' WHERE task_id = %s", [task_id])

    answer = operator.post(f"/tasks/{task_id}/retry")

    assert problem_of(answer) == (409, "task-not-retriable")
    assert operator.get(f"/tasks/{task_id}").json()["status"] == "failed"


# Delete


def test_a_deleted_task_and_its_artifacts_are_gone(
    operator: httpx2.Client, manual_worker: ManualWorker, ping: Submit
) -> None:
    task_id = ping()
    manual_worker.succeed(task_id)

    answer = operator.delete(f"/tasks/{task_id}")

    assert (answer.status_code, answer.content) == (204, b"")
    for method, path in [
        ("GET", f"/tasks/{task_id}"),
        ("GET", f"/tasks/{task_id}?wait=1"),
        ("DELETE", f"/tasks/{task_id}"),
        ("POST", f"/tasks/{task_id}/cancel"),
        ("POST", f"/tasks/{task_id}/retry"),
    ]:
        assert problem_of(operator.request(method, path)) == (410, "gone")
    tables = {"tasks": "id", "task_payloads": "task_id", "task_events": "task_id"}
    for table, column in tables.items():
        assert manual_worker.count(f"SELECT count(*) FROM {table} WHERE {column} = %s", task_id) == 0


def test_a_deleted_task_is_410_for_its_organization_for_thirty_days(
    client: httpx2.Client, stranger: httpx2.Client, manual_worker: ManualWorker, email: Submit
) -> None:
    task_id = email()
    client.post(f"/tasks/{task_id}/cancel")
    client.delete(f"/tasks/{task_id}")

    for_me, for_them = client.get(f"/tasks/{task_id}"), stranger.get(f"/tasks/{task_id}")
    manual_worker.connection.execute(
        "UPDATE tombstones SET purged_at = now() - interval '30 days 1 second' WHERE id = %s", [task_id]
    )
    later = [client.get(f"/tasks/{task_id}"), client.delete(f"/tasks/{task_id}")]

    assert (for_me.status_code, for_them.status_code) == (410, 404)
    assert [answer.status_code for answer in later] == [404, 404]


def test_a_task_that_is_not_done_cannot_be_deleted(
    operator: httpx2.Client, manual_worker: ManualWorker, ping: Submit
) -> None:
    queued, running, scheduled = ping(), ping(), ping(delay=60)
    manual_worker.claim(running)

    for task_id in (queued, running, scheduled):
        assert problem_of(operator.delete(f"/tasks/{task_id}")) == (409, "task-not-done")


@pytest.mark.parametrize(
    ("method", "path"), [("GET", ""), ("DELETE", ""), ("POST", "/cancel"), ("POST", "/retry"), ("GET", "?wait=60")]
)
def test_a_missing_task_is_not_found(operator: httpx2.Client, method: str, path: str) -> None:
    assert problem_of(operator.request(method, f"/tasks/{new_id()}{path}")) == (404, "not-found")


@pytest.mark.parametrize("text", ["x", "batch", "zzzzzzzz-zzzz-zzzz-zzzz-zzzzzzzzzzzz", "%00", "0" * 36, "..%2f", "ü"])
@pytest.mark.parametrize(("method", "path"), [("GET", ""), ("DELETE", ""), ("POST", "/cancel")])
def test_an_invalid_id_is_refused(operator: httpx2.Client, text: str, method: str, path: str) -> None:
    answer = operator.request(method, f"/tasks/{text}{path}")

    if "%2f" in text:
        assert problem_of(answer) == (404, "not-found")
        return
    assert problem_of(answer) == (422, "validation")
    assert answer.json()["errors"][0]["pointer"] == "path:task_id"
