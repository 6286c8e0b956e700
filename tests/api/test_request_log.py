"""The log of requests contains ids, addresses and statuses, and none of their content."""

from __future__ import annotations

import httpx2
import pytest
import structlog
from structlog.testing import LogCapture

from shared.api_keys import CreatedKey
from tests.api.conftest import Submit
from tests.conftest import Api


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> LogCapture:
    """The logged events of requests."""
    capture = LogCapture()
    monkeypatch.setattr("api.request_log.log", structlog.wrap_logger(None, processors=[capture]))
    return capture


@pytest.fixture
def someone(served: Api) -> CreatedKey:
    """A key without scopes."""
    return served.key("someone", scopes=[])


def test_a_submission_is_logged_with_its_caller_and_task_and_nothing_of_its_content(
    served: Api, log: LogCapture
) -> None:
    key = served.key("operator", "operator")
    client = served.client_with(key.key)

    answer = client.post(
        "/tasks?validate_only=false",
        json={"kind": "platform.ping", "params": {"echo": "private words"}},
        headers={"X-Request-ID": "seen-by-both"},
    )
    client.get(answer.headers["location"])

    (entry,) = log.entries
    assert entry.pop("ms") >= 0
    assert entry == {
        "event": "request",
        "log_level": "info",
        "request_id": "seen-by-both",
        "method": "POST",
        "path": "/tasks",
        "status": 202,
        "client": "127.0.0.1",
        "caller": str(key.caller_id),
        "key": key.key.split("_")[1],
        "task_id": answer.json()["id"],
    }


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/tasks"), ("POST", "/tasks"), ("GET", "/files"), ("HEAD", "/kinds")]
)
def test_a_missing_right_is_logged_with_key_address_and_request(
    served: Api, log: LogCapture, someone: CreatedKey, method: str, path: str
) -> None:
    answer = served.client_with(someone.key).request(method, path)

    assert answer.status_code == 403
    assert log.entries == [
        {
            "event": "access_refused",
            "log_level": "warning",
            "request_id": answer.headers["x-request-id"],
            "method": method,
            "path": path,
            "status": 403,
            "client": "127.0.0.1",
            "caller": str(someone.caller_id),
            "key": someone.key.split("_")[1],
        }
    ]


@pytest.mark.parametrize(
    ("headers", "prefix"),
    [
        ({"Authorization": "Bearer tm_0123456789ab_wrong"}, "0123456789ab"),
        ({"X-API-Key": "tm_0123456789ab_wrong"}, "0123456789ab"),
        ({"Authorization": "Bearer secret-of-another-kind"}, None),
        ({"Authorization": "Basic dXNlcjpwYXNzd29yZA=="}, None),
        ({}, None),
    ],
)
@pytest.mark.parametrize("path", ["/tasks", "/kinds"])
def test_refused_credentials_are_logged_with_no_more_than_the_prefix_of_the_key(
    nobody: httpx2.Client, log: LogCapture, headers: dict[str, str], prefix: str | None, path: str
) -> None:
    answer = nobody.post("/tasks", headers=headers) if path == "/tasks" else nobody.get(path, headers=headers)

    assert answer.status_code == 401
    (entry,) = log.entries
    assert (entry["event"], entry["key"], entry["client"]) == ("access_refused", prefix, "127.0.0.1")
    assert entry["request_id"] == answer.headers["x-request-id"]
    assert "wrong" not in repr(entry) and "secret" not in repr(entry) and "dXNl" not in repr(entry)


def test_a_caller_without_the_right_to_a_kind_or_to_delete_is_logged_too(
    served: Api, client: httpx2.Client, operator: httpx2.Client, email: Submit, log: LogCapture
) -> None:
    task_id = email()

    assert client.post("/tasks", json={"kind": "platform.ping"}).status_code == 403
    assert operator.delete(f"/tasks/{task_id}").status_code == 403

    assert [entry["event"] for entry in log.entries] == ["request", "access_refused", "access_refused"]
