"""What the audit log records, and who may read it in which format."""

from __future__ import annotations

import csv
import io
from typing import Any

import httpx2
import orjson
import pytest

from shared.api_keys import create_key, revoke_key
from tests.api.conftest import ErrorsOf, ManualWorker
from tests.conftest import Api

MAIL = {"kind": "email.send", "params": {"to": ["ada@example.com"], "text": "what nobody else may read"}}


@pytest.fixture(scope="module")
def org_admin(served: Api) -> httpx2.Client:
    """An admin of the organization of `client` alone."""
    created = create_key(served.settings, "boss", "admin", organization="someone", organization_only=True)
    return served.client_with(created.key)


def read(client: httpx2.Client, **query: Any) -> list[dict[str, Any]]:
    answer = client.get("/audit", params=query)
    assert answer.status_code == 200, answer.text
    items: list[dict[str, Any]] = answer.json()["items"]
    return items


def last(client: httpx2.Client, resource_id: str) -> dict[str, Any]:
    return read(client, resource_id=resource_id)[0]


def upload(client: httpx2.Client) -> str:
    answer = client.post("/files", files={"file": ("a.txt", b"text")})
    assert answer.status_code == 202, answer.text
    return str(answer.json()["params"]["file_id"])


def test_an_entry_says_who_did_what_from_where(client: httpx2.Client, admin: httpx2.Client) -> None:
    created = client.post("/schedules", json={"name": "secret plan", "cron": "30 2 * * *", **MAIL})
    schedule = created.json()

    entry = last(admin, schedule["id"])

    assert entry["action"] == "schedule.created"
    assert entry["resource"] == {"type": "schedule", "id": schedule["id"]}
    assert entry["actor"]["type"] == "key"
    assert entry["actor"]["api_key_id"] and entry["actor"]["caller_id"] and entry["actor"]["person_id"] is None
    assert entry["address"] == "127.0.0.1"
    assert entry["request_id"] == created.headers["x-request-id"]
    assert (entry["before"], entry["after"]["cron"]) == (None, "30 2 * * *")
    assert "secret plan" not in str(entry) and "nobody else" not in str(entry)


def test_changes_of_schedules_and_endpoints_are_recorded_with_both_states(
    client: httpx2.Client, admin: httpx2.Client
) -> None:
    schedule = client.post("/schedules", json={"name": "changing", "cron": "0 3 * * *", **MAIL}).json()["id"]
    etag = client.get(f"/schedules/{schedule}").headers["etag"]
    client.patch(f"/schedules/{schedule}", json={"cron": "0 4 * * *"}, headers={"If-Match": etag})
    changed = last(admin, schedule)
    client.post(f"/schedules/{schedule}/run")
    run = last(admin, schedule)
    client.delete(f"/schedules/{schedule}")
    deleted = last(admin, schedule)
    url = "https://203.0.113.7/hooks?token=in-the-url"
    made = client.post("/webhook-endpoints", json={"url": url, "event_types": ["task.failed"]}).json()
    endpoint, path = made["id"], f"/webhook-endpoints/{made['id']}"
    etag = client.get(path).headers["etag"]
    client.patch(path, json={"enabled": False}, headers={"If-Match": etag})
    disabled = last(admin, endpoint)
    client.post(f"{path}/rotate")
    client.delete(path)

    assert (changed["before"]["cron"], changed["after"]["cron"]) == ("0 3 * * *", "0 4 * * *")
    assert changed["after"]["changed"] == ["cron"]
    assert (run["action"], deleted["action"]) == ("schedule.run", "schedule.deleted")
    assert (disabled["before"]["enabled"], disabled["after"]["enabled"]) == (True, False)
    of_endpoint = read(admin, resource_id=endpoint)
    assert [entry["action"].partition(".")[2] for entry in of_endpoint] == [
        "deleted",
        "secret_rotated",
        "changed",
        "created",
    ]
    assert "in-the-url" not in str(of_endpoint) and made["secret"] not in str(of_endpoint)


def test_actions_on_what_is_not_ones_own_are_recorded_and_on_ones_own_are_not(
    client: httpx2.Client, operator: httpx2.Client, admin: httpx2.Client, manual_worker: ManualWorker
) -> None:
    task, own = (client.post("/tasks", json=MAIL).json()["id"] for _ in range(2))
    batch = client.post("/tasks/batch", json={"tasks": [MAIL]}).json()["batch_id"]
    file = upload(client)
    client.post(f"/tasks/{own}/cancel")
    operator.post(f"/tasks/{task}/cancel")
    operator.post(f"/tasks/{task}/retry")
    operator.post(f"/batches/{batch}/cancel")
    client.get(f"/files/{file}/content")
    assert read(admin, resource_id=file) == []
    assert operator.get(f"/files/{file}/content").content == b"text"
    operator.head(f"/files/{file}/content")

    assert [entry["action"] for entry in read(admin, resource_id=task)] == ["task.retried", "task.cancelled"]
    assert last(admin, task)["before"] == {"status": "cancelled"}
    assert last(admin, batch)["action"] == "batch.cancelled"
    assert read(admin, resource_id=own) == []
    assert [entry["action"] for entry in read(admin, resource_id=file)] == ["file.downloaded"]


def test_pauses_bulk_actions_and_secrets_are_recorded(
    client: httpx2.Client, operator: httpx2.Client, admin: httpx2.Client
) -> None:
    for path in ("/queues/reports/pause", "/queues/reports/pause", "/queues/reports/resume", "/kinds/email.send/pause"):
        assert operator.post(path).status_code == 200
    assert operator.post("/kinds/email.send/resume").status_code == 200
    bulk = client.post("/tasks/bulk", json={"action": "cancel", "filter": {"tag": "no such tag"}}).json()["id"]
    secret = client.get("/webhook-secret").json()["secret"]
    client.post("/webhook-secret/rotate")

    of_queue = [entry["action"] for entry in read(admin, resource_type="queue", resource_id="reports")]
    assert of_queue == ["queue.resumed", "queue.paused"]
    assert read(admin, action="kind.paused,kind.resumed")[0]["resource"]["id"] == "email.send"
    assert last(admin, bulk)["after"] == {"action": "cancel", "count": 0}
    shown = read(admin, action="webhook_secret.shown,webhook_secret.rotated")
    assert len(shown) == 2 and secret not in str(shown)


def test_keys_of_the_command_line_are_recorded(served: Api, admin: httpx2.Client) -> None:
    created = create_key(served.settings, "short-lived")
    assert revoke_key(served.settings, str(created.id))
    assert not revoke_key(served.settings, str(created.id))

    revoked, made = read(admin, resource_id=str(created.id))

    assert (made["action"], made["actor"]["type"], made["address"]) == ("api_key.created", "command", None)
    assert made["after"]["role"] == "client"
    assert (revoked["action"], revoked["organization_id"]) == ("api_key.revoked", str(created.organization_id))
    assert created.key[16:] not in str(made)


def test_admins_of_an_organization_read_its_entries_and_others_none(
    client: httpx2.Client,
    stranger: httpx2.Client,
    operator: httpx2.Client,
    org_admin: httpx2.Client,
    admin: httpx2.Client,
) -> None:
    mine, other = (
        by.post("/schedules", json={"name": "whose", "cron": "0 5 * * *", **MAIL}).json()["id"]
        for by in (client, stranger)
    )
    operator.post("/queues/email/pause")
    operator.post("/queues/email/resume")

    entries = read(org_admin, limit=200)
    (organization,) = {entry["organization_id"] for entry in entries}
    assert mine in {entry["resource"]["id"] for entry in entries}
    assert read(org_admin, resource_id=other) == []
    foreign = last(admin, other)["organization_id"]
    assert read(org_admin, organization_id=foreign) == []
    assert {entry["organization_id"] for entry in read(admin, organization_id=organization)} == {organization}
    for refused in (client, operator):
        assert refused.get("/audit").status_code == 403


def test_the_log_is_listed_page_by_page_and_filtered(
    client: httpx2.Client, admin: httpx2.Client, errors_of: ErrorsOf
) -> None:
    answers = [
        client.post("/schedules", json={"name": f"page {number}", "cron": "0 6 * * *", **MAIL}) for number in range(3)
    ]
    ids = [answer.json()["id"] for answer in answers]
    newest = last(admin, ids[2])
    query = {"action": "schedule.created", "actor": newest["actor"]["caller_id"], "limit": 2}

    first = admin.get("/audit", params=query).json()
    second = admin.get("/audit", params={**query, "cursor": first["next_cursor"]}).json()
    found = [entry["resource"]["id"] for entry in [*first["items"], *second["items"]]]

    assert found[:3] == ids[::-1]
    assert read(admin, actor=newest["actor"]["api_key_id"])[0] == newest
    assert [entry["id"] for entry in read(admin, request_id=answers[2].headers["x-request-id"])] == [newest["id"]]
    assert read(admin, created_after=newest["created_at"])[-1] == newest
    assert newest not in read(admin, created_before=newest["created_at"])
    assert read(admin, created_after="9999-12-31T23:59:59Z") == read(admin, created_before="0001-01-01T00:00:00Z") == []
    assert "query:action" in errors_of(admin.get("/audit", params={"action": "task.dreamt"}))
    assert "query:resource_id" in errors_of(admin.get("/audit", params={"resource_id": "\x00"}))


def test_the_log_is_returned_as_ndjson_and_csv(admin: httpx2.Client) -> None:
    whole = admin.get("/audit", headers={"Accept": "application/x-ndjson"})
    entries = [orjson.loads(line) for line in whole.text.splitlines()]
    table = admin.get("/audit", headers={"Accept": "text/csv"})
    rows = list(csv.DictReader(io.StringIO(table.text)))

    assert [entry["id"] for entry in entries] == [row["id"] for row in rows] != []
    assert rows[0]["resource_type"] == entries[0]["resource"]["type"]
    assert rows[0]["api_key_id"] == (entries[0]["actor"]["api_key_id"] or "")
