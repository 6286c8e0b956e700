"""A viewer sees the statuses and counts of its organization's tasks, and nothing of what they contain."""

from __future__ import annotations

import json
from itertools import islice
from typing import Any

import httpx2
import pytest

from shared.api_keys import create_key
from shared.identifiers import new_id
from shared.settings import Settings
from tests.api.conftest import ManualWorker
from tests.conftest import Api

SECRET = "a sentence that only clients may read"
HIDDEN = {"params": {}, "result": None, "artifacts": [], "metadata": {}, "content_hidden": True}


@pytest.fixture(scope="module")
def viewer(served: Api, module_settings: Settings) -> httpx2.Client:
    """A viewer of the organization of `client`."""
    return served.client_with(create_key(module_settings, "watcher", "viewer", organization="someone").key)


@pytest.fixture(scope="module")
def failed(client: httpx2.Client, manual_worker: ManualWorker) -> dict[str, Any]:
    """A task with content of every kind: params, metadata, progress, a log and an error."""
    message = {"to": ["ada@example.com"], "text": SECRET, "metadata": {"case": SECRET}, "tags": ["billing"]}
    task_id = client.post("/emails", json=message).json()["id"]
    assert manual_worker.claim(task_id)
    manual_worker.report(task_id, 40, SECRET)
    error = {"type": "/problems/worker-lost", "title": "Worker lost", "detail": SECRET, "data": {"why": SECRET}}
    manual_worker.end(task_id, "failed", error={**error, "retryable": True, "attempt": 1})
    task: dict[str, Any] = client.get(f"/tasks/{task_id}").json()
    return task


@pytest.fixture(scope="module")
def succeeded(client: httpx2.Client, manual_worker: ManualWorker) -> dict[str, Any]:
    """A task with a result and an artifact."""
    task_id = client.post("/emails", json={"to": ["ada@example.com"], "text": SECRET}).json()["id"]
    manual_worker.finish_with_artifacts(task_id, [f"{SECRET}.txt"])
    task: dict[str, Any] = client.get(f"/tasks/{task_id}").json()
    return task


def test_a_viewer_sees_a_task_without_its_content(
    viewer: httpx2.Client, failed: dict[str, Any], succeeded: dict[str, Any]
) -> None:
    shown = viewer.get(f"/tasks/{failed['id']}").json()

    assert shown["error"].pop("detail") != failed["error"].pop("detail")
    assert shown == {
        **failed,
        **HIDDEN,
        "progress": {"percent": 40, "message": None},
        "error": {**failed["error"], "data": {}},
    }
    assert viewer.get(f"/tasks/{succeeded['id']}").json() == {**succeeded, **HIDDEN}
    assert succeeded["artifacts"] != [] != failed["params"]


@pytest.mark.parametrize("accept", ["application/json", "application/x-ndjson", "text/csv"])
def test_no_list_in_any_format_shows_a_viewer_the_content(
    client: httpx2.Client, viewer: httpx2.Client, failed: dict[str, Any], succeeded: dict[str, Any], accept: str
) -> None:
    for path in ("/tasks", "/tasks?tag=billing", f"/tasks?ids={failed['id']},{succeeded['id']}", "/tasks/failures"):
        to_client, to_viewer = (by.get(path, headers={"Accept": accept}) for by in (client, viewer))
        assert (to_viewer.status_code, to_viewer.headers["content-type"]) == (200, to_client.headers["content-type"])
        assert SECRET not in to_viewer.text
        if path != "/tasks/failures":
            assert SECRET in to_client.text
            assert failed["id"] in to_viewer.text


def test_a_wait_and_a_version_show_a_viewer_no_content(viewer: httpx2.Client, failed: dict[str, Any]) -> None:
    answers = [
        viewer.get(f"/tasks/{failed['id']}?wait=1"),
        viewer.get(f"/tasks/{failed['id']}", headers={"If-None-Match": '"1"'}),
    ]

    assert [answer.status_code for answer in answers] == [200, 200]
    assert all(SECRET not in answer.text and answer.json()["content_hidden"] for answer in answers)


def test_the_stream_of_a_task_shows_a_viewer_its_statuses_only(
    client: httpx2.Client, viewer: httpx2.Client, failed: dict[str, Any]
) -> None:
    path = f"/tasks/{failed['id']}/events"
    token = viewer.post(f"/tasks/{failed['id']}/stream-token").json()["token"]

    streams = [viewer.get(path).text, httpx2.get(f"{viewer.base_url}{path}", params={"token": token}).text]

    assert SECRET in client.get(path).text
    for stream in streams:
        assert SECRET not in stream
        assert [line for line in stream.splitlines() if line.startswith("event:")] == [
            "event: status",
            "event: status",
            "event: progress",
            "event: status",
        ]
        data = [json.loads(line[6:]) for line in stream.splitlines() if line.startswith("data:")]
        assert [item.get("status", item.get("percent")) for item in data] == ["queued", "running", 40, "failed"]


def test_the_stream_of_all_tasks_shows_a_viewer_no_content(
    client: httpx2.Client, viewer: httpx2.Client, manual_worker: ManualWorker
) -> None:
    owner_id = manual_worker.connection.execute("SELECT id FROM callers WHERE name = 'someone'").fetchone()
    assert owner_id is not None
    seen: list[str] = []
    with viewer.stream("GET", f"/events?owner={owner_id[0]}") as stream:
        lines = stream.iter_lines()
        next(lines)
        task_id = client.post("/emails", json={"to": ["ada@example.com"], "text": "hello"}).json()["id"]
        assert manual_worker.claim(task_id)
        manual_worker.report(task_id, 40, SECRET)
        manual_worker.end(task_id, "succeeded", result={"text": SECRET})
        for line in islice(lines, 100):
            seen.append(line)
            if '"succeeded"' in line:
                break

    assert SECRET not in "".join(seen)
    assert "event: progress" in seen


def test_a_step_that_was_never_started_shows_a_viewer_no_details(
    client: httpx2.Client, viewer: httpx2.Client, manual_worker: ManualWorker
) -> None:
    step = {"kind": "email.send", "params": {"to": ["ada@example.com"], "text": "hello"}}
    steps = [{"name": "a", **step}, {"name": "b", "after": ["a"], **step}]
    workflow = client.post("/workflows", json={"steps": steps}).json()
    error = json.dumps({"type": "/problems/input-gone", "title": "Gone", "detail": SECRET, "data": {"why": SECRET}})
    manual_worker.connection.execute(
        'UPDATE workflow_steps SET error = %s::jsonb || \'{"retryable": false, "attempt": 0}\' '
        "WHERE workflow_id = %s AND name = 'b'",
        [error, workflow["id"]],
    )

    assert SECRET in client.get(f"/workflows/{workflow['id']}").text
    shown = viewer.get(f"/workflows/{workflow['id']}")
    assert shown.status_code == 200
    assert SECRET not in shown.text
    assert "/problems/input-gone" in shown.text


def test_a_viewer_cannot_ask_for_content_or_find_it_by_a_filter(
    client: httpx2.Client, viewer: httpx2.Client, failed: dict[str, Any]
) -> None:
    for path in (
        f"/tasks/{failed['id']}/log",
        f"/tasks?metadata.case={SECRET}",
        f"/tasks/failures?metadata.case={SECRET}",
        f"/events?metadata.case={SECRET}",
        "/files",
        f"/files/{new_id()}/content",
        "/schedules",
        "/webhook-deliveries",
        "/webhook-secret",
    ):
        answer = viewer.get(path)
        assert (answer.status_code, answer.json()["type"]) == (403, "/problems/forbidden"), path
    assert client.get(f"/tasks?metadata.case={SECRET}").json()["items"] != []


def test_a_viewer_changes_nothing(viewer: httpx2.Client, failed: dict[str, Any]) -> None:
    for method, path in (
        ("POST", "/tasks"),
        ("POST", f"/tasks/{failed['id']}/retry"),
        ("POST", f"/tasks/{failed['id']}/rerun"),
        ("DELETE", f"/tasks/{failed['id']}"),
        ("POST", "/tasks/bulk"),
    ):
        assert viewer.request(method, path, json={}).status_code == 403, path
    assert viewer.get(f"/tasks/{failed['id']}").json()["status"] == "failed"


def test_an_operator_of_the_organization_sees_who_submitted_a_task(
    served: Api, module_settings: Settings, failed: dict[str, Any]
) -> None:
    key = create_key(module_settings, "lead", "operator", organization="someone", organization_only=True).key

    shown = served.client_with(key).get(f"/tasks/{failed['id']}").json()

    assert (shown["owner"]["name"], shown["api_key_name"]) == ("someone", "someone")
    assert shown["params"] == failed["params"]
