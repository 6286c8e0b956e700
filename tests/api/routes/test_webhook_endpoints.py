"""`/webhook-endpoints`, `/webhook-deliveries` and `/webhook-secret`. `tests/workers/handlers/webhooks` tests the sending."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2
import psycopg
import pytest
from psycopg.rows import namedtuple_row
from standardwebhooks import Webhook

from shared.identifiers import new_id
from shared.queries import webhooks as queries
from shared.settings import Settings
from tests.api.conftest import ErrorsOf, ManualWorker
from tests.conftest import PATIENCE_SECONDS, Api, Eventually, ServeApi
from tests.receiver import Receiver, answer_with, run_receiver
from tests.webhooks import Webhooks

COUNT_BLOCKED = """
SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"""
NOWHERE = "http://127.0.0.1:9/"
MAIL = {"kind": "email.send", "params": {"to": ["ada@example.com"], "text": "hello"}}
SECRET = "whsec_" + base64.b64encode(b"k" * 32).decode()


def create(client: httpx2.Client, **fields: object) -> httpx2.Response:
    body = {"url": NOWHERE, "event_types": ["task.failed"], **fields}
    return client.post("/webhook-endpoints", json={name: value for name, value in body.items() if value is not None})


def created(client: httpx2.Client, **fields: object) -> dict[str, Any]:
    answer = create(client, **fields)
    assert answer.status_code == 201, answer.text
    endpoint: dict[str, Any] = answer.json()
    return endpoint


def change(client: httpx2.Client, endpoint: dict[str, Any], **fields: object) -> httpx2.Response:
    etag = client.get(endpoint["links"]["self"]).headers["etag"]
    return client.patch(endpoint["links"]["self"], json=fields, headers={"If-Match": etag})


@pytest.fixture
def member(served: Api) -> httpx2.Client:
    """A client of an organization that a test has to itself."""
    return served.client(f"organization-{new_id().hex}")


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with run_receiver() as running:
        yield running


@pytest.fixture
def sender(module_settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A thread that sends deliveries, as a worker does."""
    stop = threading.Event()

    def send() -> None:
        with psycopg.connect(module_settings.database_url, autocommit=True, row_factory=namedtuple_row) as connection:
            webhooks = Webhooks(module_settings, connection, tmp_path_factory.mktemp("sender"), new_id())
            while not stop.wait(0.02):
                webhooks.run_due()
            webhooks.engine.dispose()

    thread = threading.Thread(target=send)
    thread.start()
    yield
    stop.set()
    thread.join(PATIENCE_SECONDS)


def test_an_endpoint_is_shown_as_it_was_created_but_for_its_secret(client: httpx2.Client) -> None:
    fields = {"event_types": ["task.failed", "batch.finished"], "kinds": ["email.send"], "tags": ["blue"]}
    answer = create(client, description="Our server", **fields)
    endpoint = answer.json()

    assert answer.headers["location"] == endpoint["links"]["self"]
    secret = endpoint.pop("secret")
    assert len(base64.b64decode(secret.removeprefix("whsec_"))) == 32
    shown = client.get(endpoint["links"]["self"])
    assert shown.headers["etag"] == answer.headers["etag"]
    assert shown.json() == endpoint
    assert {name: endpoint[name] for name in fields} == fields
    assert (endpoint["enabled"], endpoint["disabled_reason"], endpoint["description"]) == (True, None, "Our server")


@pytest.mark.parametrize(
    ("fields", "pointer"),
    [
        ({"url": "https://user:secret@127.0.0.1/"}, "/url"),
        ({"url": "https://user@127.0.0.1/"}, "/url"),
        ({"url": "https://127.0.0.1/#part"}, "/url"),
        ({"url": "https://127.0.0.1/#"}, "/url"),
        ({"url": "ftp://127.0.0.1/"}, "/url"),
        ({"url": "file:///etc/passwd"}, "/url"),
        ({"url": "javascript:alert(1)"}, "/url"),
        ({"url": "//127.0.0.1/"}, "/url"),
        ({"url": "http:127.0.0.1"}, "/url"),
        ({"url": "https://"}, "/url"),
        ({"url": "https://127.0.0.1:0/"}, "/url"),
        ({"url": "https://127.0.0.1:99999/"}, "/url"),
        ({"url": "https://127.0.0.1/a b"}, "/url"),
        ({"url": "https://127.0.0.1\\@example.com/"}, "/url"),
        ({"url": "https://[fe80::1%25eth0]/"}, "/url"),
        ({"url": "https://[::1/"}, "/url"),
        ({"url": "https://[2606:4700::1111]x/"}, "/url"),
        ({"url": "https://a..example/"}, "/url"),
        ({"url": "https://nobody.invalid/"}, "/url"),
        ({"url": "https://127.0.0.1/" + "x" * 2048}, "/url"),
        ({"url": None}, "/url"),
        ({"event_types": []}, "/event_types"),
        ({"event_types": ["task.failed", "task.begun"]}, "/event_types/1"),
        ({"kinds": ["email.sned"]}, "/kinds/0"),
        ({"tags": [""]}, "/tags/0"),
        ({"secret": SECRET}, "/secret"),
    ],
)
def test_an_invalid_endpoint_is_refused_at_its_pointer(
    client: httpx2.Client, errors_of: ErrorsOf, fields: dict[str, Any], pointer: str
) -> None:
    assert list(errors_of(create(client, **fields))) == [pointer]


def test_the_host_of_a_url_is_stored_in_ascii(client: httpx2.Client, errors_of: ErrorsOf) -> None:
    assert created(client, url="HTTP://LOCALHOST:81")["url"] == "http://localhost:81/"
    assert "xn--" in create(client, url="https://bücher.invalid/").json()["errors"][0]["message"]


def test_endpoints_are_visible_to_their_organization_only(
    client: httpx2.Client, stranger: httpx2.Client, operator: httpx2.Client, admin: httpx2.Client
) -> None:
    endpoint = created(client)
    path = endpoint["links"]["self"]

    for answer in (
        stranger.get(path),
        stranger.delete(path),
        stranger.post(f"{path}/rotate"),
        stranger.post(f"{path}/test"),
    ):
        assert answer.status_code == 404
    assert endpoint["id"] not in {item["id"] for item in stranger.get("/webhook-endpoints").json()["items"]}
    assert operator.get(path).status_code == 200
    assert operator.delete(path).status_code == 403
    assert admin.delete(path).status_code == 204
    assert client.get(path).status_code == 404


def test_endpoints_are_listed_in_pages(member: httpx2.Client) -> None:
    ids = [created(member)["id"] for _ in range(3)]
    first = member.get("/webhook-endpoints", params={"limit": 2}).json()
    second = member.get("/webhook-endpoints", params={"limit": 2, "cursor": first["next_cursor"]}).json()

    assert [item["id"] for item in first["items"] + second["items"]] == ids[::-1]
    assert second["next_cursor"] is None
    assert "secret" not in first["items"][0]


def test_a_change_needs_the_version_that_it_is_based_on(client: httpx2.Client, errors_of: ErrorsOf) -> None:
    endpoint = created(client)
    path = endpoint["links"]["self"]
    assert client.patch(path, json={"enabled": False}).status_code == 428
    assert client.patch(path, json={"enabled": False}, headers={"If-Match": '"9"'}).status_code == 412

    changed = change(client, endpoint, enabled=False, tags=["red"])

    assert changed.status_code == 200
    assert (changed.json()["enabled"], changed.json()["tags"]) == (False, ["red"])
    assert changed.json()["event_types"] == endpoint["event_types"]
    assert list(errors_of(change(client, endpoint, url="https://u:p@127.0.0.1/"))) == ["/url"]
    assert list(errors_of(change(client, endpoint, url="https://nobody.invalid/"))) == ["/url"]


def test_an_endpoint_that_is_enabled_again_counts_as_not_failing(
    client: httpx2.Client, manual_worker: ManualWorker
) -> None:
    endpoint = created(client)
    manual_worker.connection.execute(
        "UPDATE webhook_endpoints SET enabled = false, disabled_reason = 'failing', failing_since = now() WHERE id = %s",
        [endpoint["id"]],
    )
    disabled = client.get(endpoint["links"]["self"]).json()
    assert (disabled["enabled"], disabled["disabled_reason"]) == (False, "failing")

    enabled = change(client, endpoint, enabled=True).json()

    assert (enabled["enabled"], enabled["disabled_reason"], enabled["failing_since"]) == (True, None, None)


def test_an_endpoint_can_be_deleted_while_a_delivery_to_it_ends(
    client: httpx2.Client, manual_worker: ManualWorker, module_settings: Settings, eventually: Eventually
) -> None:
    endpoint_id, delivery_id = created(client)["id"], new_id()
    connection = manual_worker.connection
    connection.execute(queries.INSERT_PING, {"id": delivery_id, "endpoint_id": endpoint_id})
    with ThreadPoolExecutor(1) as thread, psycopg.connect(module_settings.database_url) as ending:
        ending.execute(queries.LOCK_RECEIVER, {"receiver": endpoint_id})
        ending.execute(queries.END_DELIVERY, {"id": delivery_id, "state": "failed"})
        deleted = thread.submit(client.delete, f"/webhook-endpoints/{endpoint_id}")
        eventually(lambda: manual_worker.count(COUNT_BLOCKED) == 1)
        ending.execute(queries.NOTE_FAILURE, {"endpoint": endpoint_id, "gone": False})
        ending.commit()
        assert deleted.result(PATIENCE_SECONDS).status_code == 204

    assert manual_worker.count("SELECT count(*) FROM webhook_deliveries WHERE id = %s", delivery_id) == 0


@pytest.mark.usefixtures("sender")
def test_a_test_sends_a_signed_ping_and_shows_what_came_back(client: httpx2.Client, receiver: Receiver) -> None:
    endpoint = created(client, url=receiver.url)

    answer = client.post(endpoint["links"]["test"])

    assert answer.status_code == 200, answer.text
    delivery = answer.json()
    assert (delivery["outcome"], delivery["event_type"], delivery["tries"]) == ("delivered", "ping", 1)
    assert delivery["attempts"][0]["status"] == 200
    assert delivery["attempts"][0]["answer"] == "thank you"
    (request,) = receiver.requests
    assert Webhook(endpoint["secret"]).verify(request.body, request.headers)["type"] == "ping"


def test_an_endpoint_is_tested_once_at_a_time(client: httpx2.Client, manual_worker: ManualWorker) -> None:
    endpoint = created(client)
    delivery_id = new_id()
    parameters = {"id": delivery_id, "endpoint_id": endpoint["id"]}
    manual_worker.connection.execute(queries.INSERT_PING, parameters)

    assert client.post(endpoint["links"]["test"]).json()["type"] == "/problems/conflict"
    manual_worker.connection.execute(queries.END_DELIVERY, {"id": delivery_id, "state": "failed"})
    manual_worker.connection.execute("DELETE FROM webhook_deliveries WHERE id = %s", [delivery_id])


@pytest.mark.usefixtures("sender")
def test_a_rotated_secret_signs_beside_the_one_before(client: httpx2.Client, receiver: Receiver) -> None:
    endpoint = created(client, url=receiver.url)
    rotated = client.post(endpoint["links"]["rotate"]).json()
    client.post(endpoint["links"]["test"])

    (request,) = receiver.requests
    assert rotated["secret"] != endpoint["secret"]
    assert rotated["previous_secret_until"] is not None
    for secret in (rotated["secret"], endpoint["secret"]):
        Webhook(secret).verify(request.body, request.headers)


@pytest.mark.usefixtures("sender")
def test_deliveries_are_listed_by_endpoint_task_and_outcome_and_sent_again(
    member: httpx2.Client,
    stranger: httpx2.Client,
    manual_worker: ManualWorker,
    receiver: Receiver,
    eventually: Eventually,
) -> None:
    receiver.respond = answer_with(410, b"gone")
    endpoint = created(member, url=receiver.url)
    tasks = [member.post("/tasks", json=MAIL).json()["id"] for _ in range(2)]
    manual_worker.fail(tasks[0])

    def listed(**query: str) -> list[dict[str, Any]]:
        items: list[dict[str, Any]] = member.get("/webhook-deliveries", params=query).json()["items"]
        return items

    (delivery,) = eventually(lambda: listed(outcome="failed"))
    assert listed(task_id=tasks[0]) == listed(endpoint_id=endpoint["id"]) == [delivery]
    assert listed(task_id=tasks[1]) == listed(outcome="delivered") == listed(outcome="pending") == []
    assert (delivery["event_type"], delivery["task_id"], delivery["url"]) == ("task.failed", tasks[0], receiver.url)
    shown = member.get(delivery["links"]["self"]).json()
    assert [(one["status"], one["answer"]) for one in shown["attempts"]] == [(410, "gone")]
    assert shown["attempts"][0]["duration_ms"] is not None
    assert stranger.get(delivery["links"]["self"]).status_code == 404
    assert stranger.post(delivery["links"]["redeliver"]).status_code == 404

    receiver.respond = answer_with(200)
    assert member.post(delivery["links"]["redeliver"]).status_code == 409
    change(member, endpoint, enabled=True)
    again = member.post(delivery["links"]["redeliver"])

    assert (again.status_code, again.json()["outcome"]) == (202, "pending")
    eventually(lambda: listed(outcome="delivered"))
    first, second = receiver.requests
    assert first.headers["webhook-id"] == second.headers["webhook-id"] == delivery["id"]
    assert first.body == second.body


def test_a_delivery_is_not_sent_again_while_it_is_tried_or_once_it_was_erased(
    member: httpx2.Client, manual_worker: ManualWorker
) -> None:
    created(member)
    task_id = member.post("/tasks", json=MAIL).json()["id"]
    manual_worker.fail(task_id)
    (delivery,) = member.get("/webhook-deliveries").json()["items"]
    assert member.post(delivery["links"]["redeliver"]).status_code == 409

    manual_worker.connection.execute(
        "UPDATE webhook_deliveries SET state = 'failed', finished_at = now() WHERE id = %s", [delivery["id"]]
    )
    assert member.delete(f"/tasks/{task_id}").status_code == 204
    assert member.post(delivery["links"]["redeliver"]).status_code == 410


def test_the_data_of_a_webhook_is_the_task_without_its_params(
    member: httpx2.Client, manual_worker: ManualWorker
) -> None:
    created(member, event_types=["task.succeeded", "task.failed", "task.cancelled"])
    options = {"tags": ["blue"], "metadata": {"a": "ü"}, "priority": 7}
    ids = [member.post("/tasks", json={**MAIL, **options}).json()["id"] for _ in range(3)]
    manual_worker.succeed(ids[0])
    manual_worker.fail(ids[1])
    member.post(f"/tasks/{ids[2]}/cancel")

    for task_id in ids:
        shown = member.get(f"/tasks/{task_id}").json()
        del shown["params"]
        row = manual_worker.connection.execute(
            "SELECT data FROM webhook_deliveries WHERE task_id = %s", [task_id]
        ).fetchone()
        assert row is not None
        assert row[0] == shown


@pytest.mark.parametrize(
    ("options", "pointer"),
    [
        ({"webhook": {"url": "https://user:secret@127.0.0.1/"}}, "/webhook/url"),
        ({"webhook": {"url": "https://127.0.0.1/#x"}}, "/webhook/url"),
        ({"webhook": {"url": "gopher://127.0.0.1/"}}, "/webhook/url"),
        ({"webhook": {"url": "https://nobody.invalid/"}}, "/webhook/url"),
        ({"webhook": {"url": NOWHERE, "secret": "short"}}, "/webhook/secret"),
        ({"webhook": {"url": NOWHERE, "method": "PUT"}}, "/webhook/method"),
        ({"webhook": NOWHERE}, "/webhook"),
        ({"notify": {"email": []}}, "/notify/email"),
        ({"notify": {"email": ["nobody"]}}, "/notify/email/0"),
        ({"notify": {"email": ["ada@example.com"], "on": ["done"]}}, "/notify/on/0"),
        ({"notify": {"email": ["ada@example.com"], "on": []}}, "/notify/on"),
    ],
)
def test_invalid_follow_ups_of_a_submission_are_refused_at_their_pointers(
    client: httpx2.Client, errors_of: ErrorsOf, options: dict[str, Any], pointer: str
) -> None:
    assert list(errors_of(client.post("/tasks", json={**MAIL, **options}))) == [pointer]
    assert list(errors_of(client.post("/emails", json={**MAIL["params"], **options}))) == [pointer]
    batch = {"tasks": [MAIL, {**MAIL, **options}]}
    assert list(errors_of(client.post("/tasks/batch", json=batch))) == [f"/tasks/1{pointer}"]
    schedule = {"name": "invalid", "every": 60, **MAIL, **options}
    assert list(errors_of(client.post("/schedules", json=schedule))) == [pointer]


@pytest.mark.usefixtures("sender")
def test_the_webhook_of_one_submission_is_signed_by_the_default_secret(
    member: httpx2.Client, manual_worker: ManualWorker, receiver: Receiver
) -> None:
    secret = member.get("/webhook-secret").json()["secret"]
    task_id = member.post("/tasks", json={**MAIL, "webhook": {"url": receiver.url}}).json()["id"]
    manual_worker.succeed(task_id)
    (first,) = receiver.wait_for_requests(1)
    rotated = member.post("/webhook-secret/rotate").json()
    batch = member.post("/tasks/batch", json={"tasks": [{**MAIL, "webhook": {"url": receiver.url}}]}).json()
    manual_worker.succeed(batch["tasks"][0]["id"])
    second = receiver.wait_for_requests(2)[1]

    assert Webhook(secret).verify(first.body, first.headers)["data"]["id"] == task_id
    assert member.get("/webhook-secret").json() == rotated
    for key in (secret, rotated["secret"]):
        Webhook(key).verify(second.body, second.headers)


def test_a_schedule_shows_its_webhook_without_the_secret_and_keeps_it(
    client: httpx2.Client, manual_worker: ManualWorker
) -> None:
    follow_ups = {
        "webhook": {"url": NOWHERE, "secret": SECRET},
        "notify": {"email": ["ada@example.com"], "on": ["failed"]},
    }
    body = {"name": "told", "every": 3600, **MAIL, **follow_ups}
    schedule = client.post("/schedules", json=body).json()
    path = schedule["links"]["self"]
    etag = client.get(path).headers["etag"]
    changed = client.patch(path, json={"priority": 9}, headers={"If-Match": etag}).json()
    task_id = client.post(f"{path}/run").json()["id"]
    statement = "SELECT webhook_url, webhook_secret, notify FROM task_follow_ups WHERE task_id = %s"
    row = manual_worker.connection.execute(statement, [task_id]).fetchone()

    assert schedule["webhook"] == changed["webhook"] == {"url": NOWHERE}
    assert schedule["notify"] == changed["notify"] == follow_ups["notify"]
    assert row is not None
    assert row[0] == NOWHERE
    assert row[1].startswith("v1:")
    assert row[2]["on"] == ["failed"]


def test_steps_of_workflows_and_what_follows_a_batch_have_webhooks_too(
    member: httpx2.Client, manual_worker: ManualWorker
) -> None:
    told = {**MAIL, "webhook": {"url": NOWHERE}}
    steps = [{"name": "first", **told}, {"name": "second", "after": ["first"], **told}]
    workflow = member.post("/workflows", json={"steps": steps})
    assert workflow.status_code == 202, workflow.text
    batch = member.post("/tasks/batch", json={"tasks": [MAIL], "on_finished": told}).json()
    manual_worker.succeed(batch["tasks"][0]["id"])
    follower = member.get(f"/batches/{batch['batch_id']}").json()["on_finished"]["task_id"]

    ids = [*(step["task_id"] for step in workflow.json()["steps"]), follower]
    assert manual_worker.count("SELECT count(*) FROM task_follow_ups WHERE task_id = ANY (%s::uuid[])", ids) == 3


def test_a_scheduled_workflow_has_webhooks_without_secrets_of_their_own(
    member: httpx2.Client, manual_worker: ManualWorker, errors_of: ErrorsOf
) -> None:
    def create_with(webhook: dict[str, str]) -> httpx2.Response:
        steps = [{"name": "only", **MAIL, "webhook": webhook}]
        return member.post("/schedules", json={"name": "told", "every": 3600, "workflow": {"steps": steps}})

    refused = create_with({"url": NOWHERE, "secret": SECRET})
    assert list(errors_of(refused)) == ["/workflow/steps/0/webhook/secret"]
    schedule = create_with({"url": NOWHERE})
    assert schedule.status_code == 201, schedule.text
    assert member.post(f"/schedules/{schedule.json()['id']}/run").status_code == 202
    statement = """SELECT count(*) FROM task_follow_ups follow_up JOIN tasks task ON task.id = follow_up.task_id
        WHERE task.schedule_id = %s"""
    assert manual_worker.count(statement, schedule.json()["id"]) == 1


def test_an_upload_may_have_a_webhook(member: httpx2.Client, manual_worker: ManualWorker) -> None:
    task = json.dumps({"kind": "files.inspect", "webhook": {"url": NOWHERE}})
    form = {"task": (None, task), "file": ("a.txt", b"text")}
    answer = member.post("/files", files=form)
    assert answer.status_code == 202, answer.text

    assert manual_worker.count("SELECT count(*) FROM task_follow_ups WHERE task_id = %s", answer.json()["id"]) == 1


def test_the_error_of_a_delivery_is_explained(nobody: httpx2.Client) -> None:
    assert nobody.get("/problems/webhook-not-delivered").status_code == 200


def test_callers_may_not_submit_deliveries_themselves(client: httpx2.Client, errors_of: ErrorsOf) -> None:
    body = {"kind": "webhooks.deliver", "params": {"delivery_id": str(new_id())}}

    assert errors_of(client.post("/tasks", json=body)) == {"/kind": "unknown_kind"}


def test_an_organization_has_a_bounded_number_of_endpoints(
    serve: ServeApi, member: httpx2.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.routes.webhook_endpoints.MAX_ENDPOINTS", 1)
    created(member)

    assert create(member).status_code == 409
