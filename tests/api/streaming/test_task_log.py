"""`GET /tasks/<id>/log`, and log lines in the stream of a task."""

from __future__ import annotations

import json
from uuid import UUID

import httpx2
import pytest

from shared.queries.hot_tasks import WRITE_LOG
from tests.api.conftest import ErrorsOf, ManualWorker, Submit
from tests.api.streaming.conftest import follow


@pytest.fixture
def logged(manual_worker: ManualWorker, ping: Submit) -> str:
    """A done task with three log lines."""
    task_id = ping()
    manual_worker.claim(task_id)
    lines = [
        {"position": n, "age": 0.0, "data": {"level": "info", "text": f"line {n}", "fields": {"n": n}}}
        for n in (1, 2, 3)
    ]
    claim = manual_worker.count("SELECT claim FROM tasks WHERE id = %s", task_id)
    manual_worker.connection.execute(
        WRITE_LOG, {"id": task_id, "claim": claim, "count": 3, "document": json.dumps(lines)}
    )
    manual_worker.end(task_id, "succeeded", result={"echo": None})
    return task_id


def test_the_log_is_read_in_pages_oldest_first(operator: httpx2.Client, logged: str) -> None:
    whole = operator.get(f"/tasks/{logged}/log").json()
    first = operator.get(f"/tasks/{logged}/log", params={"limit": 2}).json()
    rest = operator.get(f"/tasks/{logged}/log", params={"after": first["next_after"]}).json()

    assert [(line["seq"], line["level"], line["text"], line["fields"]) for line in whole["items"]] == [
        (3, "info", "line 1", {"n": 1}),
        (4, "info", "line 2", {"n": 2}),
        (5, "info", "line 3", {"n": 3}),
    ]
    assert whole["next_after"] is None
    assert first["items"] + rest["items"] == whole["items"]
    assert rest["next_after"] is None


def test_the_stream_of_a_task_has_its_log(operator: httpx2.Client, logged: str) -> None:
    with follow(operator, f"/tasks/{logged}/events") as messages:
        events = list(messages)

    assert [event.type for event in events] == ["status", "status", "log", "log", "log", "status"]
    assert events[2].data.items() >= {"level": "info", "text": "line 1", "fields": {"n": 1}}.items()


def test_the_log_of_a_foreign_or_missing_task_is_not_found(
    client: httpx2.Client, stranger: httpx2.Client, email: Submit
) -> None:
    task_id = email(client)

    assert client.get(f"/tasks/{task_id}/log").json() == {"items": [], "next_after": None}
    assert stranger.get(f"/tasks/{task_id}/log").status_code == 404
    assert stranger.get(f"/tasks/{UUID(int=7)}/log").status_code == 404


@pytest.mark.parametrize("value", ["-1", "x", "1.5", "9" * 12])
def test_a_number_that_no_line_has_is_refused(
    operator: httpx2.Client, ping: Submit, errors_of: ErrorsOf, value: str
) -> None:
    assert errors_of(operator.get(f"/tasks/{ping()}/log", params={"after": value})) == {"query:after": "int_parsing"}
