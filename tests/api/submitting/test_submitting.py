"""Submitting one task: the answer, the options, and `validate_only`."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx2
import pytest

from shared.identifiers import new_id
from tests.api.conftest import ErrorsOf, ManualWorker

EMAIL = {"to": ["Ada <ada@example.com>"], "from": "boss@example.com", "subject": "Hi", "text": "hello"}
TABLES = ["tasks", "task_payloads", "task_events", "task_files", "files", "idempotency_keys", "unique_tasks"]


@pytest.fixture(scope="module")
def csv(client: httpx2.Client, data: Path) -> str:
    with (data / "penguins.csv").open("rb") as file:
        return str(client.post("/files", files={"file": ("penguins.csv", file)}).json()["params"]["file_id"])


@pytest.fixture(scope="module")
def picture(client: httpx2.Client, data: Path) -> str:
    with (data / "coffee.png").open("rb") as file:
        return str(client.post("/files", files={"file": ("coffee.png", file)}).json()["params"]["file_id"])


def report(file_id: str, **options: object) -> dict[str, Any]:
    return {"sources": [{"name": "penguins", "file_id": file_id}], "query": "SELECT 1", **options}


def test_a_submission_is_answered_with_the_task_and_where_to_follow_it(
    client: httpx2.Client, csv: str, picture: str
) -> None:
    images = {"file_id": picture, "variants": [{"name": "small", "width": 10, "format": "png"}]}
    answers = {
        "email.send": client.post("/emails", json=EMAIL),
        "reports.run": client.post("/reports", json=report(csv)),
        "files.make_images": client.post("/tasks", json={"kind": "files.make_images", "params": images}),
    }

    for kind, answer in answers.items():
        assert answer.status_code == 202, answer.text
        task = answer.json()
        assert task["kind"] == kind
        assert (task["status"], task["done"], task["attempt"]) == ("queued", False, 0)
        assert answer.headers["location"] == task["links"]["self"] == f"/tasks/{task['id']}"
        assert int(answer.headers["retry-after"]) >= 1
        assert answer.headers["content-type"] == "application/json"
        followed = client.get(answer.headers["location"])
        assert followed.json() == task


def test_params_are_shown_with_their_defaults_filled_in(client: httpx2.Client) -> None:
    params = client.post("/emails", json=EMAIL).json()["params"]

    assert params["from"] == "boss@example.com"
    assert params["cc"] == [] and params["attachments"] == []
    assert not set(params) & {"priority", "tags", "keep_for"}


def test_options_are_kept_and_shown(client: httpx2.Client) -> None:
    options = {
        "priority": 9,
        "max_attempts": 25,
        "tags": ["a", 'b"\\{},NULL', "ü" * 64],
        "metadata": {"k": "v", "": "", "ünï": "x\ny", "a/b": "\x01"},
        "timeout": 1,
        "ttl": 3600,
        "keep_for": 0,
    }

    task = client.post("/emails", json={**EMAIL, **options}).json()

    followed = client.get(f"/tasks/{task['id']}").json()
    for name in ("priority", "max_attempts", "tags", "metadata"):
        assert task[name] == followed[name] == options[name]


def test_options_have_defaults(client: httpx2.Client) -> None:
    task = client.post("/emails", json=EMAIL).json()

    assert (task["priority"], task["max_attempts"], task["tags"], task["metadata"]) == (5, 8, [], {})
    assert task["run_at"] is None and task["batch_id"] is None


def test_a_task_with_delay_or_run_at_is_scheduled(client: httpx2.Client) -> None:
    tomorrow = datetime.now(UTC) + timedelta(days=1)

    delayed = client.post("/emails", json={**EMAIL, "delay": 90.5}).json()
    timed = client.post("/emails", json={**EMAIL, "run_at": tomorrow.isoformat()}).json()
    at_once = client.post("/emails", json={**EMAIL, "delay": 0}).json()

    assert [task["status"] for task in (delayed, timed, at_once)] == ["scheduled", "scheduled", "queued"]
    waited = datetime.fromisoformat(delayed["run_at"]) - datetime.fromisoformat(delayed["created_at"])
    assert waited == timedelta(seconds=90.5)
    assert abs(datetime.fromisoformat(timed["run_at"]) - tomorrow) < timedelta(milliseconds=1)
    assert client.get(f"/tasks/{delayed['id']}").json()["run_at"] == delayed["run_at"]


@pytest.mark.parametrize("offset", ["+16:00", "-16:00", "+23:59", "-23:59"])
def test_run_at_can_have_an_offset_that_postgres_does_not_accept(client: httpx2.Client, offset: str) -> None:
    moment = datetime.now(UTC).replace(microsecond=0) + timedelta(days=2)
    hours, minutes = int(offset[:3]), int(offset[0] + offset[4:])
    written = f"{moment + timedelta(hours=hours, minutes=minutes):%Y-%m-%dT%H:%M:%S}{offset}"

    answer = client.post("/emails", json={**EMAIL, "run_at": written})

    assert (answer.status_code, datetime.fromisoformat(answer.json()["run_at"])) == (202, moment)


def test_a_ttl_counts_from_created_at(client: httpx2.Client, manual_worker: ManualWorker) -> None:
    task_id = client.post("/emails", json={**EMAIL, "ttl": 60, "delay": 3600}).json()["id"]

    seconds = manual_worker.count(
        "SELECT extract(epoch FROM expires_at - created_at)::int FROM tasks WHERE id = %s", task_id
    )

    assert seconds == 60


def test_a_task_past_its_ttl_never_starts(client: httpx2.Client, manual_worker: ManualWorker) -> None:
    task_id = client.post("/emails", json={**EMAIL, "ttl": 60}).json()["id"]
    manual_worker.connection.execute("UPDATE tasks SET expires_at = now() WHERE id = %s", [task_id])

    assert not manual_worker.claim(task_id)


def test_a_timeout_longer_than_the_kind_allows_is_refused(client: httpx2.Client, errors_of: ErrorsOf) -> None:
    assert client.post("/emails", json={**EMAIL, "timeout": 300}).status_code == 202
    assert errors_of(client.post("/emails", json={**EMAIL, "timeout": 301})) == {"/timeout": "less_than_equal"}


def test_limits_of_tags_and_metadata_are_inclusive(client: httpx2.Client) -> None:
    most = {"tags": ["x" * 64] * 16, "metadata": {"k": "v" * 4088}, "keep_for": 365 * 86_400}

    assert client.post("/emails", json={**EMAIL, **most}).status_code == 202


@pytest.mark.parametrize("metadata", [{"k": "v" * 4089}, {"k": '"' * 2045}, {"k": "ü" * 2045}])
def test_metadata_is_measured_as_compact_json(client: httpx2.Client, metadata: dict[str, str]) -> None:
    answer = client.post("/emails", json={**EMAIL, "metadata": metadata})

    assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, "/metadata")


def test_files_must_exist_and_be_of_a_type_that_the_kind_reads(
    client: httpx2.Client, errors_of: ErrorsOf, csv: str, picture: str
) -> None:
    nowhere = str(new_id())
    images = {"file_id": csv, "variants": [{"name": "small", "width": 10, "format": "png"}]}

    missing = client.post("/reports", json={**report(csv), "sources": [
        {"name": "a", "file_id": csv}, {"name": "b", "file_id": nowhere}, {"name": "c", "file_id": picture},
    ]})  # fmt: skip
    wrong = client.post("/tasks", json={"kind": "files.make_images", "params": images})
    batch = [{"kind": "files.inspect", "params": {"file_id": file_id}} for file_id in (csv, nowhere)]

    assert errors_of(missing) == {"/sources/1/file_id": "unknown_file", "/sources/2/file_id": "unreadable_file"}
    assert errors_of(wrong) == {"/params/file_id": "unreadable_file"}
    assert errors_of(client.post("/tasks/batch", json={"tasks": batch})) == {"/tasks/1/params/file_id": "unknown_file"}


def test_validate_only_stores_nothing(client: httpx2.Client, manual_worker: ManualWorker, csv: str) -> None:
    def count() -> list[int]:
        return [manual_worker.count(f"SELECT count(*) FROM {table}") for table in TABLES]

    before = count()
    headers = {"Idempotency-Key": str(new_id())}
    task = {"kind": "email.send", "params": EMAIL}

    answers = [
        client.post("/tasks?validate_only=true", json={**task, "unique_for": 60}, headers=headers),
        client.post("/tasks/batch?validate_only=true", json={"tasks": [task, task]}, headers=headers),
        client.post("/emails?validate_only=true", json=EMAIL, headers=headers),
        client.post("/reports?validate_only=true", json=report(csv), headers=headers),
        client.post("/files?validate_only=true", files={"task": (None, '{"kind":"files.inspect"}')}, headers=headers),
    ]

    for answer in answers:
        assert (answer.status_code, answer.json()) == (200, {"valid": True})
        assert "location" not in answer.headers and "retry-after" not in answer.headers
    assert count() == before


def test_validate_only_finds_the_same_errors_as_submitting(client: httpx2.Client, errors_of: ErrorsOf) -> None:
    nowhere = str(new_id())
    inspect = {"kind": "files.inspect", "params": {"file_id": nowhere}}

    assert errors_of(client.post("/tasks?validate_only=true", json=inspect)) == {"/params/file_id": "unknown_file"}
    assert errors_of(client.post("/tasks/batch?validate_only=true", json={"tasks": [inspect]})) == {
        "/tasks/0/params/file_id": "unknown_file"
    }
    assert errors_of(client.post("/reports?validate_only=true", json=report(nowhere))) == {
        "/sources/0/file_id": "unknown_file"
    }
    assert set(errors_of(client.post("/emails?validate_only=true", json={"x": 1}))) >= {"/x"}


def test_validate_only_false_submits(client: httpx2.Client) -> None:
    assert client.post("/emails?validate_only=false", json=EMAIL).status_code == 202


def test_a_side_by_side_body_with_kind_or_params_is_refused(client: httpx2.Client, errors_of: ErrorsOf) -> None:
    found = errors_of(
        client.post("/emails", json={**EMAIL, "kind": "email.send", "params": {}, "sender": "x@example.com"})
    )

    assert found == dict.fromkeys(["/kind", "/params", "/sender"], "extra_forbidden")


def test_a_valid_traceparent_is_stored_and_an_invalid_one_is_not(
    client: httpx2.Client, manual_worker: ManualWorker
) -> None:
    good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    task = {"kind": "email.send", "params": EMAIL}

    for path, body in (("/tasks", task), ("/emails", EMAIL)):
        kept = client.post(path, json=body, headers={"traceparent": good}).json()["id"]
        left = client.post(path, json=body, headers={"traceparent": "x" * 3000}).json()["id"]

        assert manual_worker.count("SELECT count(*) FROM tasks WHERE id = %s AND traceparent = %s", kept, good) == 1
        assert manual_worker.count("SELECT count(*) FROM tasks WHERE id = %s AND traceparent IS NULL", left) == 1


def test_a_task_stores_the_id_of_its_request(client: httpx2.Client, manual_worker: ManualWorker) -> None:
    answer = client.post("/emails", json=EMAIL, headers={"x-request-id": "find-me"})

    statement = "SELECT count(*) FROM tasks WHERE id = %s AND request_id = 'find-me'"
    assert manual_worker.count(statement, answer.json()["id"]) == 1


@pytest.mark.parametrize("reply_to", ["Help <help@example.com>", ["Help <help@example.com>"], []])
def test_an_email_with_every_field_is_accepted(client: httpx2.Client, reply_to: object) -> None:
    message = {
        "from": "Zoë Müller <zoe@example.com>",
        "to": ["日本 太郎 <taro@example.com>"],
        "cc": ["cc@example.com"],
        "bcc": ["bcc@example.com"],
        "reply_to": reply_to,
        "subject": "Grüße",
        "text": "Hi",
        "html": "<p>Hi",
        "attachments": [],
        "headers": {"List-Unsubscribe": "<https://example.com/u>"},
    }

    answer = client.post("/emails", json=message)

    assert answer.status_code == 202, answer.text
    assert answer.json()["params"] == message | {"reply_to": ["Help <help@example.com>"] if reply_to else []}
