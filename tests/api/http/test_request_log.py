"""What the log tells of a request: ids and outcomes, and nothing that someone might not want written down."""

from __future__ import annotations

from typing import Any

import structlog
from structlog.testing import LogCapture


def test_a_submission_is_logged_with_its_request_and_task_and_nothing_of_its_content(
    api: Any, monkeypatch: Any
) -> None:
    captured = LogCapture()
    monkeypatch.setattr("api.http.middleware.log", structlog.wrap_logger(None, processors=[captured]))
    client = api.client("operator", "operator")

    answer = client.post(
        "/tasks?validate_only=false",
        json={"kind": "platform.ping", "params": {"echo": "private words"}},
        headers={"X-Request-ID": "seen-by-both"},
    )
    client.get(answer.headers["location"])

    (entry,) = captured.entries
    assert entry.pop("ms") >= 0
    assert entry == {
        "event": "request",
        "log_level": "info",
        "request_id": "seen-by-both",
        "method": "POST",
        "path": "/tasks",
        "status": 202,
        "task_id": answer.json()["id"],
    }
