"""Many tasks at once: filters of lists, failures by group, lists as NDJSON and CSV, and actions on what a filter finds."""

from __future__ import annotations

import csv
import io
from typing import Any
from uuid import UUID

import httpx2
import orjson
import pytest

from shared.identifiers import new_id
from shared.queries import tasks as task_queries
from tests.api.conftest import ErrorsOf, ManualWorker, Submit
from tests.conftest import Api

TIMED_OUT = {
    "type": "/problems/timed-out",
    "title": "Timed out",
    "detail": "It took too long.",
    "retryable": True,
    "attempt": 1,
    "data": {},
}


@pytest.fixture
def tag() -> str:
    return new_id().hex


def time_out(manual_worker: ManualWorker, task_id: str) -> str:
    assert manual_worker.claim(task_id)
    assert manual_worker.end(task_id, "failed", error=TIMED_OUT) == "failed"
    return task_id


def shown_at(client: httpx2.Client, task_id: str) -> str:
    created_at: str = client.get(f"/tasks/{task_id}").json()["created_at"]
    return created_at


def ids_of(answer: httpx2.Response) -> list[str]:
    assert answer.status_code == 200, answer.text
    return [task["id"] for task in answer.json()["items"]]


def test_a_list_can_be_filtered_by_the_type_of_the_shown_error(
    operator: httpx2.Client, manual_worker: ManualWorker, ping: Submit, tag: str
) -> None:
    timed_out, lost, again = ping(tags=[tag]), ping(tags=[tag]), ping(tags=[tag])
    time_out(manual_worker, timed_out)
    manual_worker.fail(lost)
    time_out(manual_worker, again)
    operator.post(f"/tasks/{again}/retry")

    for error_type, expected in (("/problems/timed-out", [timed_out]), ("timed-out", [timed_out]), ("timed", [])):
        assert ids_of(operator.get("/tasks", params={"tag": tag, "error_type": error_type})) == expected
    by_id = {"action": "retry", "filter": {"tag": tag, "error_type": "timed-out"}, "dry_run": True}
    assert operator.post("/tasks/bulk", json=by_id).json()["count"] == 1
    assert operator.get("/tasks", params={"error_type": "x" * 201}).status_code == 422


def test_a_list_can_be_filtered_by_keys_of_metadata(operator: httpx2.Client, ping: Submit, tag: str) -> None:
    both = ping(tags=[tag], metadata={"order": "7", "städt.e": "köln & co"})
    ping(tags=[tag], metadata={"order": "8", "städt.e": "köln & co"})
    ping(tags=[tag])

    found = operator.get("/tasks", params={"tag": tag, "metadata.order": "7", "metadata.städt.e": "köln & co"})

    assert ids_of(found) == [both]
    assert ids_of(operator.get("/tasks", params={"tag": tag, "metadata.order": "9"})) == []


@pytest.mark.parametrize(
    ("query", "pointer", "code"),
    [
        ("metadata.=x", "query:metadata.", "extra_forbidden"),
        ("metadata=x", "query:metadata", "extra_forbidden"),
        ("meta.x=x", "query:meta.x", "extra_forbidden"),
        ("metadata.x=%00", "query:metadata.x", "nul_character"),
        ("error_type=a%00", "query:error_type", "nul_character"),
        ("schedule_id=x", "query:schedule_id", "uuid_parsing"),
        ("ids=x&metadata.x=y", "query:metadata.x", "not_with_ids"),
    ],
)
def test_a_filter_that_is_invalid_is_refused_by_its_name(
    operator: httpx2.Client, errors_of: ErrorsOf, query: str, pointer: str, code: str
) -> None:
    assert errors_of(operator.get(f"/tasks?{query}")) == {pointer: code}


def test_failures_are_grouped_by_kind_and_type_of_error(
    operator: httpx2.Client, stranger: httpx2.Client, manual_worker: ManualWorker, ping: Submit, tag: str
) -> None:
    first, last = time_out(manual_worker, ping(tags=[tag])), time_out(manual_worker, ping(tags=[tag]))
    manual_worker.fail(lost := ping(tags=[tag]))
    operator.post(f"/tasks/{ping(tags=[tag])}/cancel")
    ends = [operator.get(f"/tasks/{task_id}").json()["finished_at"] for task_id in (first, last, lost)]

    answer = operator.get("/tasks/failures", params={"tag": tag})

    assert answer.json() == {
        "items": [
            {
                "kind": "platform.ping",
                "error_type": "/problems/timed-out",
                "count": 2,
                "first_at": ends[0],
                "last_at": ends[1],
                "example_id": last,
            },
            {
                "kind": "platform.ping",
                "error_type": "/problems/worker-lost",
                "count": 1,
                "first_at": ends[2],
                "last_at": ends[2],
                "example_id": lost,
            },
        ],
        "complete": True,
        "counted_since": None,
    }
    cancelled = operator.get("/tasks/failures", params={"tag": tag, "status": "cancelled"}).json()["items"]
    assert [group["error_type"] for group in cancelled] == ["/problems/cancelled"]
    assert stranger.get("/tasks/failures", params={"tag": tag}).json()["items"] == []


def test_only_the_newest_of_very_many_failures_are_counted(
    operator: httpx2.Client, manual_worker: ManualWorker, ping: Submit, tag: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(task_queries, "MAX_COUNTED_FAILURES", 2)
    old, middle, new = (time_out(manual_worker, ping(tags=[tag])) for _ in range(3))

    some = operator.get("/tasks/failures", params={"tag": tag}).json()
    one = operator.get("/tasks/failures", params={"tag": tag, "created_after": shown_at(operator, new)}).json()

    assert [(group["count"], group["example_id"]) for group in some["items"]] == [(2, new)]
    assert (some["complete"], some["counted_since"]) == (False, shown_at(operator, middle))
    assert (one["complete"], one["counted_since"]) == (True, None)
    assert shown_at(operator, old) <= some["counted_since"]


def test_no_other_status_than_that_of_a_failure_is_grouped(operator: httpx2.Client, errors_of: ErrorsOf) -> None:
    assert errors_of(operator.get("/tasks/failures?status=failed,succeeded")) == {"query:status": "enum"}
    assert errors_of(operator.get("/tasks/failures?limit=1")) == {"query:limit": "extra_forbidden"}


def test_a_list_as_csv_has_all_tasks_and_is_safe_in_a_spreadsheet(
    operator: httpx2.Client, manual_worker: ManualWorker, ping: Submit, tag: str
) -> None:
    metadata = {"note": '=cmd|"/c calc"!A1, and\nmore'}
    made = [ping(tags=[tag, "=1+1"], metadata=metadata) for _ in range(60)]
    time_out(manual_worker, made[-1])

    answer = operator.get("/tasks", params={"tag": tag}, headers={"Accept": "text/csv"})

    assert answer.headers["content-type"] == "text/csv; charset=utf-8; header=present"
    assert answer.headers["vary"].split(", ")[-1] == "Accept"
    assert "link" not in answer.headers
    rows = list(csv.DictReader(io.StringIO(answer.text, newline="")))
    assert [row["id"] for row in rows] == made[::-1]
    assert (rows[0]["status"], rows[0]["error_type"], rows[0]["result"]) == ("failed", "/problems/timed-out", "")
    assert orjson.loads(rows[0]["metadata"]) == metadata
    assert orjson.loads(rows[0]["tags"]) == [tag, "=1+1"]


def test_a_page_of_a_list_as_ndjson_links_to_the_next(operator: httpx2.Client, ping: Submit, tag: str) -> None:
    made = [ping(tags=[tag]) for _ in range(3)]
    accept = {"Accept": "application/x-ndjson"}

    first = operator.get("/tasks", params={"tag": tag, "limit": 2}, headers=accept)
    second = operator.get(first.headers["link"].removeprefix("<").removesuffix('>; rel="next"'), headers=accept)

    lines = [orjson.loads(line) for answer in (first, second) for line in answer.content.splitlines()]
    assert lines == [operator.get(f"/tasks/{task_id}").json() for task_id in made[::-1]]
    assert first.headers["content-type"] == "application/x-ndjson"
    assert "link" not in second.headers


def test_lists_of_files_and_schedules_are_csv_too(client: httpx2.Client, tag: str) -> None:
    task = {"kind": "email.send", "params": {"to": ["ada@example.com"], "text": "x"}}
    client.post("/schedules", json={"name": f"=1+{tag}", "every": 3600, **task})
    client.post("/files", files={"file": ("a,b.txt", b"hello")})

    for path, column, value in (("/files", "name", "a,b.txt"), ("/schedules", "name", f"'=1+{tag}")):
        answer = client.get(path, headers={"Accept": "text/csv"})
        rows = list(csv.DictReader(io.StringIO(answer.text, newline="")))
        assert rows[0][column] == value
        assert client.get(f"{path}?limit=1").json()["items"][0]["id"] == rows[0]["id"]


def test_every_other_list_comes_as_ndjson_and_csv_too(
    operator: httpx2.Client, manual_worker: ManualWorker, ping: Submit, tag: str
) -> None:
    endpoint = {"url": "https://127.0.0.1/hooks", "event_types": ["task.failed"], "tags": [tag]}
    operator.post("/webhook-endpoints", json=endpoint)
    operator.post("/workflows", json={"steps": [{"name": "only", "kind": "platform.ping"}]})
    time_out(manual_worker, failed := ping(tags=[tag]))
    manual_worker.connection.execute(
        "INSERT INTO signs_of_life (part, since, details) VALUES ('worker:a@b', now(), %s) ON CONFLICT DO NOTHING",
        ('{"queues": ["files"], "slots": 2, "version": "1"}',),
    )

    for path, column in (
        ("/webhook-endpoints", "url"),
        ("/webhook-deliveries", "task_id"),
        ("/workflows", "step_counts"),
        (f"/tasks/failures?tag={tag}", "error_type"),
        (f"/tasks?ids={failed}", "status"),
        ("/queues", "depth"),
        ("/workers", "host"),
    ):
        items = operator.get(path).json()["items"]
        lines = operator.get(path, headers={"Accept": "application/x-ndjson"}).content.splitlines()
        answer = operator.get(path, headers={"Accept": "text/csv"})
        rows = list(csv.DictReader(io.StringIO(answer.text, newline="")))

        assert items, path
        assert [list(orjson.loads(line)) for line in lines] == [list(item) for item in items]
        assert answer.headers["content-type"].startswith("text/csv")
        assert len(rows) == len(items)
        assert rows[0][column]
        assert operator.get(path, headers={"Accept": "image/png"}).status_code == 406


def test_a_long_list_of_deliveries_is_whole_as_csv(
    operator: httpx2.Client, manual_worker: ManualWorker, ping: Submit, tag: str
) -> None:
    endpoint = {"url": "https://127.0.0.1/hooks", "event_types": ["task.failed"], "tags": [tag]}
    endpoint_id = operator.post("/webhook-endpoints", json=endpoint).json()["id"]
    failed = [time_out(manual_worker, ping(tags=[tag])) for _ in range(51)]
    path = f"/webhook-deliveries?endpoint_id={endpoint_id}"

    answer = operator.get(path, headers={"Accept": "text/csv"})

    rows = list(csv.DictReader(io.StringIO(answer.text, newline="")))
    assert sorted(row["task_id"] for row in rows) == sorted(failed)
    assert len(operator.get(path).json()["items"]) == 50


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ("*/*", "application/json"),
        ("text/html, */*;q=0.1", "application/json"),
        ("text/*", "text/csv"),
        ("application/json;q=0.5, text/csv;q=0.9", "text/csv"),
        ("*/*, application/json;q=0", "application/x-ndjson"),
        ("text/csv;header=present;q=1.0, application/x-ndjson;q=oops", "text/csv"),
        ("text/html", None),
        ("text/csv;q=0", None),
    ],
)
def test_the_format_of_a_list_is_that_of_the_highest_quality(
    operator: httpx2.Client, accept: str, expected: str | None
) -> None:
    answer = operator.get("/tasks?limit=1", headers={"Accept": accept})

    if expected is None:
        assert (answer.status_code, answer.json()["type"]) == (406, "/problems/not-acceptable")
    else:
        assert answer.headers["content-type"].split(";")[0] == expected


def test_a_done_task_is_submitted_anew_with_what_changes(
    operator: httpx2.Client, manual_worker: ManualWorker, tag: str
) -> None:
    options = {"priority": 7, "max_attempts": 2, "timeout": 30, "keep_for": 60, "tags": [tag], "metadata": {"a": "b"}}
    backoff = {"first_seconds": 2, "longest_seconds": 9.5}
    body = {"kind": "platform.ping", "params": {"echo": "old"}, "backoff": backoff, **options}
    task = operator.post("/tasks", json=body).json()
    manual_worker.fail(task["id"])
    operator.post(f"/tasks/{task['id']}/retry")
    manual_worker.fail(task["id"])

    answer = operator.post(f"/tasks/{task['id']}/rerun", json={"params": {"echo": "new"}, "priority": 1})

    again = answer.json()
    assert (answer.status_code, answer.headers["location"]) == (202, f"/tasks/{again['id']}")
    assert (again["rerun_of"], again["status"], again["attempt"]) == (task["id"], "queued", 0)
    assert (again["params"]["echo"], again["priority"], again["max_attempts"]) == ("new", 1, 2)
    assert (again["tags"], again["metadata"]) == ([tag], {"a": "b"})
    stored = manual_worker.connection.execute(
        "SELECT timeout_seconds, keep_seconds, backoff FROM tasks WHERE id = %s", (again["id"],)
    ).fetchone()
    assert stored == (30, 60, backoff)
    assert operator.get(f"/tasks/{again['id']}").json() == again
    old = operator.get(f"/tasks/{task['id']}").json()
    assert (old["rerun_of"], ids_of(operator.get(old["links"]["reruns"]))) == (None, [again["id"]])


def test_a_rerun_has_the_webhook_and_the_notice_of_its_task_unless_they_change(
    operator: httpx2.Client, manual_worker: ManualWorker
) -> None:
    webhook = {"url": "https://127.0.0.1/hooks", "secret": "whsec_" + "A" * 32}
    notify = {"email": ["ada@example.com"], "on": ["failed", "succeeded"]}
    body = {"kind": "platform.ping", "webhook": webhook, "notify": notify}
    manual_worker.succeed(task_id := operator.post("/tasks", json=body).json()["id"])

    def follow_up(**changes: object) -> tuple[str | None, bool, list[str] | None]:
        again = operator.post(f"/tasks/{task_id}/rerun", json=changes)
        assert again.status_code == 202, again.text
        row = manual_worker.connection.execute(
            "SELECT webhook_url, webhook_secret IS NOT NULL, notify->'on' FROM task_follow_ups WHERE task_id = %s",
            (again.json()["id"],),
        ).fetchone()
        return row or (None, False, None)

    assert follow_up() == (webhook["url"], True, notify["on"])
    assert follow_up(webhook=None) == (None, False, notify["on"])
    assert follow_up(webhook={"url": "https://127.0.0.1/other"}) == ("https://127.0.0.1/other", False, notify["on"])
    assert follow_up(notify=None) == (webhook["url"], True, None)
    assert follow_up(webhook=None, notify=None) == (None, False, None)


def test_the_webhook_of_a_rerun_must_change_if_its_secret_is_lost(
    operator: httpx2.Client, manual_worker: ManualWorker
) -> None:
    webhook = {"url": "https://127.0.0.1/hooks", "secret": "whsec_" + "A" * 32}
    task_id = operator.post("/tasks", json={"kind": "platform.ping", "webhook": webhook}).json()["id"]
    manual_worker.succeed(task_id)
    manual_worker.connection.execute(
        "UPDATE task_follow_ups SET webhook_secret = 'v1:lost:AAAA' WHERE task_id = %s", (task_id,)
    )

    assert operator.post(f"/tasks/{task_id}/rerun").status_code == 409
    assert operator.post(f"/tasks/{task_id}/rerun", json={"webhook": None}).status_code == 202


def test_a_rerun_without_a_body_repeats_the_task_once_for_each_key(
    operator: httpx2.Client, manual_worker: ManualWorker, ping: Submit
) -> None:
    manual_worker.succeed(task_id := ping())
    key = {"Idempotency-Key": new_id().hex}

    first, second = (operator.post(f"/tasks/{task_id}/rerun", headers=key) for _ in range(2))
    operator.delete(f"/tasks/{task_id}")
    third = operator.post(f"/tasks/{task_id}/rerun", headers=key)

    assert [answer.status_code for answer in (first, second, third)] == [202, 202, 202]
    assert {answer.json()["id"] for answer in (first, second, third)} == {first.json()["id"]}
    assert third.headers["idempotency-replayed"] == "true"
    assert operator.post(f"/tasks/{task_id}/rerun").status_code == 410


def test_a_rerun_is_refused_with_the_reason(
    operator: httpx2.Client,
    client: httpx2.Client,
    stranger: httpx2.Client,
    manual_worker: ManualWorker,
    ping: Submit,
    email: Submit,
) -> None:
    queued, done = ping(), ping()
    manual_worker.succeed(done)
    manual_worker.fail(sent := email())

    def refused(by: httpx2.Client, task_id: str, **body: object) -> tuple[int, str]:
        answer = by.post(f"/tasks/{task_id}/rerun", json=body)
        problem = answer.json()
        pointer = problem.get("errors", [{}])[0].get("pointer", "")
        return answer.status_code, problem["type"].removeprefix("/problems/") + pointer

    assert refused(operator, queued) == (409, "task-not-done")
    assert refused(operator, sent) == (403, "forbidden")
    assert refused(stranger, sent) == (404, "not-found")
    assert refused(client, sent, kind="platform.ping") == (422, "validation/kind")
    assert refused(client, sent, params={"to": []}) == (422, "validation/params/to")
    assert refused(client, sent, params={"no": 1}) == (422, "validation/params/no")
    assert refused(client, sent, params=[]) == (422, "validation/params")
    assert refused(client, sent, no=1) == (422, "validation/no")


@pytest.mark.parametrize(
    ("backoff", "pointer", "code"),
    [
        ({"first_seconds": 5, "longest_seconds": 4}, "/backoff/longest_seconds", "longest_before_first"),
        ({"first_seconds": -1, "longest_seconds": 4}, "/backoff/first_seconds", "greater_than_equal"),
        ({"first_seconds": 1, "longest_seconds": 1e9}, "/backoff/longest_seconds", "less_than_equal"),
        ({"first_seconds": 1}, "/backoff/longest_seconds", "missing"),
        ({"first_seconds": "1", "longest_seconds": 2}, "/backoff/first_seconds", "float_type"),
    ],
)
def test_a_backoff_that_makes_no_sense_is_refused(
    operator: httpx2.Client, errors_of: ErrorsOf, backoff: dict[str, Any], pointer: str, code: str
) -> None:
    assert errors_of(operator.post("/tasks", json={"kind": "platform.ping", "backoff": backoff})) == {pointer: code}


def test_schedules_have_a_backoff_too(client: httpx2.Client, tag: str) -> None:
    backoff = {"first_seconds": 1.0, "longest_seconds": 60.0}
    task = {"kind": "email.send", "params": {"to": ["ada@example.com"], "text": "x"}, "backoff": backoff}

    answer = client.post("/schedules", json={"name": tag, "every": 3600, **task})

    assert (answer.status_code, answer.json()["backoff"]) == (201, backoff)


def test_a_dry_run_counts_the_tasks_and_changes_nothing(
    client: httpx2.Client, stranger: httpx2.Client, manual_worker: ManualWorker, email: Submit, tag: str
) -> None:
    failed, queued = email(tags=[tag]), email(tags=[tag])
    time_out(manual_worker, failed)

    def count(by: httpx2.Client, action: str, **filters: object) -> Any:
        body = {"action": action, "filter": {"tag": tag, **filters}, "dry_run": True}
        answer = by.post("/tasks/bulk", json=body)
        assert answer.status_code == 200, answer.text
        return answer.json()

    assert count(client, "cancel") == {"action": "cancel", "count": 1, "exact": True}
    assert count(client, "retry", error_type="/problems/timed-out")["count"] == 1
    assert count(client, "retry", error_type="/problems/worker-lost")["count"] == 0
    assert count(client, "delete", status="failed,queued")["count"] == 1
    assert count(client, "cancel", ids=[queued, failed])["count"] == 1
    assert count(stranger, "cancel")["count"] == 0
    assert [client.get(f"/tasks/{task_id}").json()["status"] for task_id in (failed, queued)] == ["failed", "queued"]


def test_an_action_on_many_tasks_is_a_task_of_its_caller(client: httpx2.Client, email: Submit, tag: str) -> None:
    email(tags=[tag])
    body = {"action": "cancel", "filter": {"tag": tag}, "per_second": 5}
    key = {"Idempotency-Key": new_id().hex}

    answers = [client.post("/tasks/bulk", json=body, headers=key) for _ in range(2)]

    task = answers[0].json()
    assert (answers[0].status_code, answers[0].headers["location"]) == (202, f"/tasks/{task['id']}")
    assert (task["kind"], task["queue"], task["status"]) == ("maintenance.bulk", "maintenance", "queued")
    assert task["params"]["filter"] == {"status": ["scheduled", "queued", "running", "retrying"], "tag": tag}
    assert (task["params"]["action"], task["params"]["count"], task["params"]["per_second"]) == ("cancel", 1, 5.0)
    assert answers[1].json()["id"] == task["id"] == client.get(f"/tasks/{task['id']}").json()["id"]
    assert answers[1].headers["idempotency-replayed"] == "true"
    assert client.post("/tasks", json={"kind": "maintenance.bulk", "params": task["params"]}).status_code == 422


@pytest.mark.parametrize(
    "body", [b"\xff90f", b'{"params": ' + b'{"a": ' * 300 + b"1" + b"}" * 301], ids=["no JSON", "deep"]
)
def test_a_malformed_body_with_an_idempotency_key_is_refused(client: httpx2.Client, body: bytes) -> None:
    headers = {"Content-Type": "application/json", "Idempotency-Key": new_id().hex}
    assert client.post(f"/tasks/{new_id()}/rerun", content=body, headers=headers).status_code == 422


def test_only_an_operator_retries_the_action_of_an_operator(served: Api, tag: str) -> None:
    operator, member = served.client("bulk-together", "operator"), served.client("bulk-together", "client")
    task = operator.post("/tasks/bulk", json={"action": "cancel", "filter": {"tag": tag}}).json()
    operator.post(f"{task['links']['self']}/cancel")

    assert member.get(task["links"]["self"]).status_code == 200
    assert member.post(f"{task['links']['self']}/retry").json()["type"] == "/problems/forbidden"
    assert operator.post(f"{task['links']['self']}/retry").status_code == 202
    operator.post(f"{task['links']['self']}/cancel")


def test_the_organization_of_an_action_is_that_of_what_its_caller_may_do(served: Api, tag: str) -> None:
    def organization_of(role: str, action: str) -> str | None:
        body = {"action": action, "filter": {"tag": tag}}
        by = served.client(f"bulk-{role}", role)
        task = by.post("/tasks/bulk", json=body).json()
        own = str(UUID(task["params"]["organization_id"])) if task["params"]["organization_id"] else None
        by.post(f"/tasks/{task['id']}/cancel")
        return own

    assert organization_of("client", "cancel") is not None
    assert organization_of("operator", "retry") is None
    assert organization_of("operator", "delete") is not None
    assert organization_of("admin", "delete") is None


@pytest.mark.parametrize(
    ("body", "pointer", "code"),
    [
        ({"action": "cancel"}, "/filter", "missing"),
        ({"action": "cancel", "filter": {}}, "/filter", "empty"),
        ({"action": "retry", "filter": {"status": ["succeeded"]}}, "/filter/status", "impossible"),
        ({"action": "erase", "filter": {"kind": "x"}}, "/action", "enum"),
        ({"action": "cancel", "filter": {"colour": "x"}}, "/filter/colour", "extra_forbidden"),
        ({"action": "cancel", "filter": {"kind": "a\x00"}}, "/filter/kind", "nul_character"),
        ({"action": "cancel", "filter": {"metadata": {}}}, "/filter/metadata", "too_short"),
        ({"action": "cancel", "filter": {"kind": "x"}, "per_second": 0}, "/per_second", "greater_than_equal"),
        ({"action": "cancel", "filter": {"created_after": "yesterday"}}, "/filter/created_after", "timestamp"),
        ([], "", "dict_type"),
    ],
)
def test_an_action_that_is_not_clear_is_refused(
    client: httpx2.Client, errors_of: ErrorsOf, body: object, pointer: str, code: str
) -> None:
    assert errors_of(client.post("/tasks/bulk", json=body)) == {pointer: code}


def test_every_task_is_meant_only_if_the_caller_says_so(client: httpx2.Client) -> None:
    body = {"action": "delete", "filter": {}, "all": True, "dry_run": True}

    assert client.post("/tasks/bulk", json=body).status_code == 200


def test_a_rerun_with_an_idempotency_key_and_a_body_that_is_not_json_is_refused(client: httpx2.Client) -> None:
    headers = {"Idempotency-Key": "one", "Content-Type": "application/json"}

    answer = client.post(f"/tasks/{new_id()}/rerun", content=b"\x82\xd3", headers=headers)

    assert (answer.status_code, answer.json()["errors"][0]["code"]) == (422, "json_invalid"), answer.text


LIMITS: dict[str, Any] = {
    "concurrency": {"key": "a key", "limit": 2},
    "rate": {"key": "a key", "limit": 10, "period_seconds": 60},
}


def test_limits_of_keys_are_shown_and_kept_by_batches_and_reruns(
    operator: httpx2.Client, manual_worker: ManualWorker
) -> None:
    body = {"kind": "platform.ping", "params": {}, **LIMITS}
    task = operator.post("/tasks", json=body).json()
    (in_batch,) = operator.post("/tasks/batch", json={"tasks": [body]}).json()["tasks"]
    operator.post(f"/tasks/{task['id']}/cancel")
    again = operator.post(f"/tasks/{task['id']}/rerun", json={"rate": None}).json()
    plain = operator.post("/tasks", json={"kind": "platform.ping", "params": {}}).json()

    for shown in (task, in_batch, operator.get(f"/tasks/{task['id']}").json()):
        assert {name: shown[name] for name in LIMITS} == LIMITS
    assert (again["concurrency"], again["rate"]) == (LIMITS["concurrency"], None)
    assert (plain["concurrency"], plain["rate"]) == (None, None)


@pytest.mark.parametrize(
    ("options", "pointer", "code"),
    [
        ({"concurrency": {"key": "", "limit": 1}}, "/concurrency/key", "string_too_short"),
        ({"concurrency": {"key": "k" * 129, "limit": 1}}, "/concurrency/key", "string_too_long"),
        ({"concurrency": {"key": "k", "limit": 0}}, "/concurrency/limit", "greater_than_equal"),
        ({"concurrency": {"key": "k", "limit": 10_001}}, "/concurrency/limit", "less_than_equal"),
        ({"concurrency": {"key": "k"}}, "/concurrency/limit", "missing"),
        ({"rate": {"key": "k", "limit": 1}}, "/rate/period_seconds", "missing"),
        ({"rate": {"key": "k", "limit": 1, "period_seconds": 86_401}}, "/rate/period_seconds", "less_than_equal"),
        ({"rate": {"key": "a\0b", "limit": 1, "period_seconds": 1}}, "/rate/key", "nul_character"),
    ],
)
def test_limits_of_keys_that_make_no_sense_are_refused(
    operator: httpx2.Client, errors_of: ErrorsOf, options: dict[str, Any], pointer: str, code: str
) -> None:
    assert errors_of(operator.post("/tasks", json={"kind": "platform.ping", **options})) == {pointer: code}


def test_schedules_have_limits_of_keys_too(client: httpx2.Client, tag: str) -> None:
    task = {"kind": "email.send", "params": {"to": ["ada@example.com"], "text": "x"}, **LIMITS}

    answer = client.post("/schedules", json={"name": tag, "every": 3600, "enabled": False, **task})

    assert answer.status_code == 201, answer.text
    assert {name: answer.json()[name] for name in LIMITS} == LIMITS
