from __future__ import annotations

import json
import threading
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from shared.contracts.webhooks.deliver import KIND
from shared.identifiers import new_id
from shared.queries import tasks as task_queries
from shared.queries import webhooks as queries
from shared.settings import Settings
from shared.stored_secrets import SecretCipher
from shared.webhooks.signing import SECRET_PURPOSE, new_secret
from tests.claims import claim_tasks
from tests.conftest import PATIENCE_SECONDS
from tests.receiver import ReceivedRequest, Respond, answer_with, hang_after, repeat, run_receiver
from tests.webhooks import Webhooks
from workers.adapters.address_guard import AddressGuard
from workers.adapters.http_client import HttpClient


def _run_together(webhooks: Webhooks) -> int:
    """Run every task that sends a delivery and is due, each in a thread of its own; return how many there were."""
    threads = [threading.Thread(target=webhooks.run, args=(task,)) for task in webhooks.claim_due()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_SECONDS)
    return len(threads)


def verify(secret: str, request: ReceivedRequest) -> dict[str, Any]:
    """Check the signature as a receiver does, and return the body."""
    found: dict[str, Any] = Webhook(secret).verify(request.body, request.headers)
    return found


def test_the_end_of_a_task_is_sent_signed_to_each_endpoint_that_asks_for_it(webhooks: Webhooks) -> None:
    with run_receiver() as receiver:
        _, secret = webhooks.add_endpoint(receiver.url)
        webhooks.add_endpoint(receiver.url, ["task.cancelled", "batch.finished"])
        webhooks.add_endpoint(receiver.url, enabled=False)
        webhooks.add_endpoint(receiver.url, organization_id=new_id())
        task_id = webhooks.end_new_task(tags=["blue"], metadata={"order": "7"})
        assert webhooks.run_due() == ["succeeded"]

    (request,) = receiver.requests
    body = verify(secret, request)
    (delivery,) = webhooks.deliveries()
    assert body["type"] == "task.succeeded"
    assert datetime.fromisoformat(body["timestamp"]) <= datetime.now(UTC)
    assert body["data"]["id"] == str(task_id)
    assert (body["data"]["result"], body["data"]["tags"]) == ({"echo": "ü"}, ["blue"])
    assert "params" not in body["data"]
    assert request.headers["webhook-id"] == str(delivery.id)
    assert request.headers["content-type"] == "application/json"
    assert (delivery.state, delivery.tries, delivery.task_id) == ("delivered", 1, task_id)
    (one,) = webhooks.tries()
    assert (one.status, one.answer, one.error) == (200, "thank you", None)
    assert one.duration_ms >= 0


def test_the_task_that_sends_a_delivery_has_the_options_of_its_contract(webhooks: Webhooks) -> None:
    webhooks.add_endpoint("http://127.0.0.1:9/")
    webhooks.end_new_task()

    (delivery,) = webhooks.deliveries()
    task = webhooks.task(delivery.send_task_id)
    assert (task["kind"], task["kind_version"], task["queue"]) == ("webhooks.deliver", KIND.version, KIND.queue)
    assert (task["max_attempts"], task["timeout_seconds"]) == (KIND.max_attempts, KIND.timeout_seconds)


def test_a_wrong_secret_does_not_verify_the_signature(webhooks: Webhooks) -> None:
    with run_receiver() as receiver:
        webhooks.add_endpoint(receiver.url)
        webhooks.end_new_task()
        webhooks.run_due()

    with pytest.raises(WebhookVerificationError):
        verify(new_secret(), receiver.requests[0])


def test_an_endpoint_gets_the_end_of_a_task_that_was_submitted_before_it(webhooks: Webhooks) -> None:
    task_id = webhooks.submit()
    endpoint_id, _ = webhooks.add_endpoint("https://example.com/hook")

    webhooks.end(task_id)

    assert [(row.endpoint_id, row.task_id) for row in webhooks.deliveries()] == [(endpoint_id, task_id)]


def test_filters_choose_the_tasks_by_kind_and_tag(webhooks: Webhooks) -> None:
    for values in ({"kinds": ["email.send"]}, {"tags": ["red"]}, {"kinds": ["platform.ping"], "tags": ["blue", "red"]}):
        webhooks.add_endpoint("http://127.0.0.1:9/", **values)

    webhooks.end_new_task(tags=["blue"])
    assert len(webhooks.deliveries()) == 1
    webhooks.end_new_task(tags=["red"])
    assert len(webhooks.deliveries()) == 3


def test_a_rotated_secret_signs_for_a_day_beside_the_new_one(webhooks: Webhooks, settings: Settings) -> None:
    with run_receiver() as receiver:
        endpoint_id, old = webhooks.add_endpoint(receiver.url)
        new = new_secret()
        with webhooks.engine.begin() as connection:
            stored = SecretCipher(settings).encrypt(new, SECRET_PURPOSE)
            connection.execute(queries.rotate_secret(endpoint_id, stored))
        webhooks.end_new_task()
        webhooks.run_due()
        webhooks.connection.execute("UPDATE webhook_endpoints SET previous_secret_until = now()")
        webhooks.end_new_task()
        webhooks.run_due()

    first, second = receiver.requests
    assert verify(old, first) == verify(new, first)
    assert verify(new, second)
    with pytest.raises(WebhookVerificationError):
        verify(old, second)


def test_secrets_are_encrypted_in_the_database(webhooks: Webhooks) -> None:
    endpoint_id, secret = webhooks.add_endpoint("http://127.0.0.1:9/")
    given = new_secret()
    task_id = webhooks.submit(webhook={"url": "http://127.0.0.1:9/", "secret": given})
    stored = webhooks.connection.execute("SELECT * FROM task_follow_ups WHERE task_id = %s", [task_id]).fetchone()

    assert secret.removeprefix("whsec_") not in webhooks.endpoint(endpoint_id).secret
    assert stored is not None
    assert given.removeprefix("whsec_") not in str(stored)


def test_the_webhook_of_a_submission_is_signed_by_its_secret_or_the_default_one(
    webhooks: Webhooks, settings: Settings
) -> None:
    given = new_secret()
    with run_receiver() as receiver:
        first = webhooks.end_new_task("failed", webhook={"url": receiver.url, "secret": given})
        webhooks.run_due()
        second = webhooks.end_new_task(webhook={"url": receiver.url})
        webhooks.run_due()
        webhooks.end_new_task()
        assert webhooks.run_due() == []

    with webhooks.engine.connect() as connection:
        row = connection.execute(queries.find_default_secret(webhooks.organization_id)).one()
    default = SecretCipher(settings).decrypt(row.secret, SECRET_PURPOSE)
    bodies = [verify(given, receiver.requests[0]), verify(default, receiver.requests[1])]
    assert [(body["type"], body["data"]["id"]) for body in bodies] == [
        ("task.failed", str(first)),
        ("task.succeeded", str(second)),
    ]


def test_a_failed_try_is_repeated_with_the_same_id_and_body(webhooks: Webhooks) -> None:
    with run_receiver(answer_with(500, b"oh no")) as receiver:
        endpoint_id, secret = webhooks.add_endpoint(receiver.url)
        webhooks.end_new_task()
        before = datetime.now(UTC)
        assert webhooks.run_due() == ["retrying"]
        after = datetime.now(UTC)
        assert webhooks.run_due() == []
        (delivery,) = webhooks.deliveries()
        assert (delivery.state, delivery.tries) == ("pending", 1)
        assert before + timedelta(seconds=2) < delivery.next_try_at < after + timedelta(seconds=6)
        assert webhooks.endpoint(endpoint_id).failing_since is not None
        receiver.respond = answer_with(204)
        webhooks.skip_waits()
        assert webhooks.run_due() == ["succeeded"]

    first, second = receiver.requests
    assert first.headers["webhook-id"] == second.headers["webhook-id"]
    assert first.body == second.body
    assert verify(secret, first) == verify(secret, second)
    assert [(one.number, one.status, one.answer) for one in webhooks.tries()] == [(1, 500, "oh no"), (2, 204, "")]
    assert webhooks.endpoint(endpoint_id).failing_since is None


@pytest.mark.parametrize("form", ["seconds", "date"])
def test_retry_after_is_obeyed(webhooks: Webhooks, form: str) -> None:
    moment = format_datetime(datetime.fromtimestamp(time.time() + 600, UTC), usegmt=True)
    value = "600" if form == "seconds" else moment
    with run_receiver(answer_with(429, headers=f"retry-after: {value}\r\n")) as receiver:
        webhooks.add_endpoint(receiver.url)
        webhooks.end_new_task()
        webhooks.run_due()

    (delivery,) = webhooks.deliveries()
    assert 590 < (delivery.next_try_at - datetime.now(UTC)).total_seconds() < 670
    assert abs((delivery.next_try_at - webhooks.task(delivery.send_task_id)["next_attempt_at"]).total_seconds()) < 5


def test_a_receiver_that_is_gone_gets_no_more(webhooks: Webhooks) -> None:
    with run_receiver(answer_with(410)) as receiver:
        endpoint_id, _ = webhooks.add_endpoint(receiver.url)
        webhooks.end_new_task()
        webhooks.end_new_task(webhook={"url": receiver.url})
        assert webhooks.run_due() == ["failed"] * 3
        webhooks.end_new_task()
        assert webhooks.run_due() == []

    endpoint = webhooks.endpoint(endpoint_id)
    assert (endpoint.enabled, endpoint.disabled_reason, endpoint.version) == (False, "gone", 2)
    assert endpoint.updated_at > endpoint.created_at
    assert [delivery.state for delivery in webhooks.deliveries()] == ["failed"] * 3
    assert len(receiver.requests) == 2
    assert [one.error for one in webhooks.tries() if one.status is None] == ["endpoint_disabled"]


def test_an_endpoint_that_accepts_nothing_for_five_days_is_disabled(webhooks: Webhooks) -> None:
    with run_receiver(answer_with(503)) as receiver:
        endpoint_id, _ = webhooks.add_endpoint(receiver.url)
        webhooks.end_new_task()
        webhooks.run_due()
        webhooks.connection.execute("UPDATE webhook_endpoints SET failing_since = now() - interval '4 days 23 hours'")
        webhooks.skip_waits()
        assert webhooks.run_due() == ["retrying"]
        before = webhooks.endpoint(endpoint_id)
        assert before.updated_at == before.created_at
        webhooks.connection.execute("UPDATE webhook_endpoints SET failing_since = now() - interval '5 days 1 second'")
        webhooks.skip_waits()
        assert webhooks.run_due() == ["failed"]

    endpoint = webhooks.endpoint(endpoint_id)
    assert (endpoint.enabled, endpoint.disabled_reason) == (False, "failing")
    assert endpoint.updated_at > before.updated_at


def test_a_delivery_fails_when_its_three_days_are_over(webhooks: Webhooks) -> None:
    with run_receiver(answer_with(500)) as receiver:
        webhooks.add_endpoint(receiver.url)
        webhooks.end_new_task()
        (delivery,) = webhooks.deliveries()
        assert 2.99 < (delivery.give_up_at - delivery.created_at).total_seconds() / 86_400 < 3.01
        webhooks.connection.execute("UPDATE webhook_deliveries SET give_up_at = now() + interval '1 second'")
        assert webhooks.run_due() == ["failed"]

    assert webhooks.deliveries()[0].state == "failed"


@pytest.mark.parametrize(
    ("respond", "error"),
    [
        (hang_after(b""), "timed_out"),
        (hang_after(b"HTTP/1.1 200 OK\r\n"), "timed_out"),
        (answer_with(302, headers="location: http://127.0.0.1:9/\r\n"), None),
    ],
    ids=["hangs before its answer", "hangs in the headers", "redirects to loopback"],
)
def test_a_receiver_that_does_not_answer_with_2xx_is_tried_again(
    webhooks: Webhooks, respond: Respond, error: str | None
) -> None:
    with run_receiver(respond) as receiver:
        webhooks.add_endpoint(receiver.url)
        webhooks.end_new_task()
        assert webhooks.run_due() == ["retrying"]

    (one,) = webhooks.tries()
    assert (one.error, one.status) == ((error, None) if error else (None, 302))
    assert error or "A redirect is not followed" in one.detail
    assert len(receiver.requests) == 1


def test_only_the_beginning_of_an_answer_is_kept(webhooks: Webhooks) -> None:
    with run_receiver(repeat(b"HTTP/1.1 200 OK\r\n\r\n", b"\x00\xff" * 1000)) as receiver:
        webhooks.add_endpoint(receiver.url)
        webhooks.end_new_task()
        assert webhooks.run_due() == ["succeeded"]

    assert webhooks.tries()[0].answer == "\N{REPLACEMENT CHARACTER}" * 1024


def test_an_address_that_is_not_public_gets_no_request(webhooks: Webhooks) -> None:
    webhooks.client = HttpClient(AddressGuard())
    with run_receiver() as receiver:
        webhooks.add_endpoint(receiver.url.replace("127.0.0.1", "0x7f.1"))
        webhooks.end_new_task()
        assert webhooks.run_due() == ["retrying"]
        assert receiver.requests == []

    (one,) = webhooks.tries()
    assert one.error == "address_refused"
    assert "loopback" in one.detail


def test_a_secret_that_cannot_be_decrypted_delays_the_delivery(webhooks: Webhooks) -> None:
    with run_receiver() as receiver:
        endpoint_id, _ = webhooks.add_endpoint(receiver.url, secret="v1:lost:AAAA")
        webhooks.end_new_task()
        assert webhooks.run_due() == ["retrying"]
        assert receiver.requests == []

    assert webhooks.tries()[0].error == "secret_unreadable"
    assert webhooks.endpoint(endpoint_id).failing_since is None


def test_a_batch_has_one_delivery_once_its_last_task_has_ended(webhooks: Webhooks) -> None:
    webhooks.add_endpoint("http://127.0.0.1:9/", ["batch.finished"], kinds=["email.send"])
    batch_id = new_id()
    first, second = (webhooks.submit(batch_id=batch_id) for _ in range(2))
    webhooks.end(first)
    assert webhooks.deliveries() == []
    webhooks.end(second, "failed")

    (delivery,) = webhooks.deliveries()
    assert (delivery.event_type, delivery.task_id) == ("batch.finished", None)
    assert delivery.data["id"] == str(batch_id)
    assert (delivery.data["total"], delivery.data["counts"]) == (2, {"succeeded": 1, "failed": 1})


def test_a_workflow_has_a_delivery_once_its_last_step_has_ended(webhooks: Webhooks) -> None:
    webhooks.add_endpoint("http://127.0.0.1:9/", ["workflow.finished"])
    task_id, workflow_id = webhooks.submit(), new_id()
    webhooks.connection.execute(
        "INSERT INTO workflows (id, organization_id, owner_id, name) VALUES (%(id)s, %(owner)s, %(owner)s, 'nightly')",
        {"id": workflow_id, "owner": webhooks.organization_id},
    )
    webhooks.connection.execute(
        """INSERT INTO workflow_steps (workflow_id, name, place, position, after, submission, refs, task_id, status)
           VALUES (%s, 'only', 0, 0, '{}', '{"kind": "platform.ping"}', '[]', %s, 'running')""",
        [workflow_id, task_id],
    )
    webhooks.connection.execute("UPDATE tasks SET workflow_id = %s, workflow_step = 'only'", [workflow_id])
    webhooks.end(task_id)

    (delivery,) = webhooks.deliveries()
    assert delivery.event_type == "workflow.finished"
    assert {name: delivery.data[name] for name in ("id", "name", "status", "done", "step_counts")} == {
        "id": str(workflow_id),
        "name": "nightly",
        "status": "succeeded",
        "done": True,
        "step_counts": {"succeeded": 1},
    }
    assert [(step["name"], step["task_id"]) for step in delivery.data["steps"]] == [("only", str(task_id))]


def test_a_schedule_that_cannot_submit_its_task_has_a_delivery(webhooks: Webhooks) -> None:
    webhooks.add_endpoint("http://127.0.0.1:9/", ["schedule.failed"])
    webhooks.connection.execute(
        """INSERT INTO schedules (id, organization_id, owner_id, name, kind, params, every_seconds, next_at)
           VALUES (gen_random_uuid(), %(id)s, %(id)s, 'nightly', 'platform.ping', '{}', 60, now())""",
        {"id": webhooks.organization_id},
    )
    error = json.dumps({"type": "/problems/queue-full", "title": "Queue full", "detail": "It is full."})
    statement = "UPDATE schedules SET last_error = %s, next_at = next_at + interval '1 minute'"
    webhooks.connection.execute(statement, [error])
    webhooks.connection.execute("UPDATE schedules SET last_error = NULL, next_at = next_at + interval '1 minute'")

    (delivery,) = webhooks.deliveries()
    assert delivery.event_type == "schedule.failed"
    assert (delivery.data["name"], delivery.data["every"]) == ("nightly", 60)
    assert delivery.data["last_error"]["type"] == "/problems/queue-full"


def test_the_delivery_of_a_cancelled_task_contains_its_error(webhooks: Webhooks) -> None:
    webhooks.add_endpoint("http://127.0.0.1:9/", ["task.cancelled"])
    task_id = webhooks.submit()
    webhooks.connection.execute(task_queries.CANCEL, {"ids": [task_id]})

    (delivery,) = webhooks.deliveries()
    assert (delivery.event_type, delivery.data["status"]) == ("task.cancelled", "cancelled")
    assert delivery.data["error"]["type"] == "/problems/cancelled"


@pytest.mark.parametrize(("status", "mails"), [("failed", 1), ("succeeded", 0)])
def test_an_email_is_sent_for_the_statuses_of_notify_alone(webhooks: Webhooks, status: str, mails: int) -> None:
    task_id = webhooks.end_new_task(status, notify={"email": ["Ada <ada@example.com>"], "on": ["failed", "cancelled"]})

    found = webhooks.connection.execute(
        """SELECT task.parent_id, task.status, task.queue, payload.params FROM tasks task
           JOIN task_payloads payload ON payload.task_id = task.id WHERE task.kind = 'email.send'"""
    ).fetchall()
    assert len(found) == mails
    for mail in found:
        assert (mail.parent_id, mail.status, mail.queue) == (task_id, "queued", "email")
        assert mail.params["to"] == ["Ada <ada@example.com>"]
        assert mail.params["subject"] == "Task failed: platform.ping"
        assert f"The task {task_id} of the kind platform.ping failed at 20" in mail.params["text"]
        assert "It is gone." in mail.params["text"]


def test_a_task_that_is_erased_takes_what_its_deliveries_contain_along(webhooks: Webhooks) -> None:
    webhooks.add_endpoint("http://127.0.0.1:9/")
    task_id = webhooks.end_new_task()
    webhooks.connection.execute("DELETE FROM tasks WHERE id = %s", [task_id])
    (delivery,) = webhooks.deliveries()
    assert delivery.data is not None
    webhooks.connection.execute("UPDATE webhook_deliveries SET give_up_at = now()")
    webhooks.run_due()

    assert webhooks.deliveries()[0].data is None


def test_a_receiver_that_hangs_does_not_delay_another(webhooks: Webhooks) -> None:
    # Twelve deliveries to a receiver that hangs are claimed before the one to a receiver that answers.
    with run_receiver(hang_after(b"")) as slow, run_receiver() as fast:
        slow_id, _ = webhooks.add_endpoint(slow.url, tags=["slow"])
        webhooks.add_endpoint(fast.url, tags=["fast"])
        for _ in range(12):
            webhooks.end_new_task(tags=["slow"])
        webhooks.end_new_task(tags=["fast"])
        claimed = webhooks.claim_due()
        threads = [threading.Thread(target=webhooks.run, args=(task,)) for task in claimed]
        for thread in threads:
            thread.start()
        fast.wait_for_requests(1)
        for thread in threads:
            thread.join(PATIENCE_SECONDS)
        states = [delivery.state for delivery in webhooks.deliveries() if delivery.receiver_id == slow_id]

    # At most four were on their way; the others waited without a slot, and one was started when these had ended.
    assert slow.most_in_flight <= 4
    assert len(slow.requests) <= 4
    assert states.count("waiting") == 12 - len(slow.requests) - 1
    assert [len(webhooks.claim_due(slow_id))] == [1]


def test_slow_receivers_get_four_deliveries_at_a_time_together(webhooks: Webhooks) -> None:
    with run_receiver(hang_after(b"")) as slow, run_receiver() as fast:
        for number in range(6):
            endpoint_id, _ = webhooks.add_endpoint(slow.url, tags=[f"slow {number}"])
            webhooks.connection.execute("INSERT INTO slow_receivers (receiver_id) VALUES (%s)", [endpoint_id])
            webhooks.end_new_task(tags=[f"slow {number}"])
        webhooks.add_endpoint(fast.url, tags=["fast"])
        webhooks.end_new_task(tags=["fast"])
        # Those that wait are started when others have ended.
        while _run_together(webhooks):
            pass

    assert len(slow.requests) == 6
    assert len(fast.requests) == 1
    slow_tries = [
        (row.started_at, row.started_at + timedelta(milliseconds=row.duration_ms))
        for row in webhooks.tries()
        if row.error == "timed_out"
    ]
    assert max(sum(begin <= start < end for begin, end in slow_tries) for start, _ in slow_tries) <= 4


def test_a_receiver_is_slow_until_it_answers_in_time(webhooks: Webhooks) -> None:
    with run_receiver(hang_after(b"")) as receiver:
        endpoint_id, _ = webhooks.add_endpoint(receiver.url)
        webhooks.end_new_task()
        webhooks.run_due()
        assert [row.receiver_id for row in webhooks.slow_receivers()] == [endpoint_id]

        receiver.respond = answer_with(500)
        webhooks.skip_waits()
        webhooks.run_due()

    assert webhooks.slow_receivers() == []


def test_an_event_of_many_endpoints_has_a_delivery_and_a_task_for_each(webhooks: Webhooks) -> None:
    endpoints = {webhooks.add_endpoint("https://example.com/hook")[0] for _ in range(30)}

    webhooks.end_new_task()

    deliveries = webhooks.deliveries()
    assert {delivery.receiver_id for delivery in deliveries} == endpoints
    assert {task.id for task in webhooks.claim_due()} == {delivery.send_task_id for delivery in deliveries}


def test_deliveries_that_wait_are_all_sent_in_the_end(webhooks: Webhooks) -> None:
    with run_receiver() as receiver:
        webhooks.add_endpoint(receiver.url)
        for _ in range(10):
            webhooks.end_new_task()
        while _run_together(webhooks):
            pass

    assert [delivery.state for delivery in webhooks.deliveries()] == ["delivered"] * 10
    assert len(receiver.requests) == 10


def test_a_delivery_whose_task_ends_otherwise_fails_and_lets_others_go_on(webhooks: Webhooks) -> None:
    endpoint_id, _ = webhooks.add_endpoint("http://127.0.0.1:9/")
    for _ in range(2):
        webhooks.end_new_task()
    first, second = webhooks.deliveries()
    webhooks.connection.execute("UPDATE webhook_deliveries SET state = 'waiting' WHERE id = %s", [second.id])
    webhooks.connection.execute(task_queries.CANCEL, {"ids": [first.send_task_id]})

    first, second = webhooks.deliveries()
    assert (first.state, second.state) == ("failed", "pending")
    assert len(webhooks.claim_due(endpoint_id)) == 2


def test_a_delivery_that_is_sent_again_is_left_to_its_new_task(webhooks: Webhooks) -> None:
    with run_receiver() as receiver:
        webhooks.add_endpoint(receiver.url)
        webhooks.end_new_task()
        webhooks.end_new_task()
        first, second = webhooks.deliveries()
        (running,) = claim_tasks(webhooks.connection, [first.send_task_id])
        # The deliveries ended and were sent again, before the tasks that sent them could end.
        for delivery in (first, second):
            webhooks.connection.execute(queries.END_DELIVERY, {"id": delivery.id, "state": "failed"})
            webhooks.connection.execute(queries.START_DELIVERY, {"id": delivery.id})
        webhooks.connection.execute(task_queries.CANCEL, {"ids": [second.send_task_id]})

        assert webhooks.run(running) == "succeeded"
        assert receiver.requests == []
        assert [delivery.state for delivery in webhooks.deliveries()] == ["pending", "pending"]
        assert webhooks.run_due() == ["succeeded", "succeeded"]

    assert [delivery.state for delivery in webhooks.deliveries()] == ["delivered", "delivered"]
    assert len(receiver.requests) == 2


def test_tasks_end_while_an_endpoint_is_changed(webhooks: Webhooks) -> None:
    endpoint_id, _ = webhooks.add_endpoint("http://127.0.0.1:9/")
    webhooks.connection.execute("SET lock_timeout = '2s'")
    with webhooks.engine.begin() as connection:
        connection.execute(queries.lock_endpoint(endpoint_id, None))
        webhooks.end_new_task()

    assert len(webhooks.deliveries()) == 1


def test_an_interrupted_try_is_shown_as_such(webhooks: Webhooks) -> None:
    with run_receiver() as receiver:
        webhooks.add_endpoint(receiver.url)
        webhooks.end_new_task()
        (delivery,) = webhooks.deliveries()
        with webhooks.engine.begin() as connection:
            connection.exec_driver_sql(queries.BEGIN_TRY, {"id": delivery.id})
        assert webhooks.run_due() == ["succeeded"]

    assert [(one.error, one.status) for one in webhooks.tries()] == [("interrupted", None), (None, 200)]


def test_a_delivery_that_was_deleted_or_has_ended_is_not_sent(webhooks: Webhooks) -> None:
    with run_receiver() as receiver:
        endpoint_id, _ = webhooks.add_endpoint(receiver.url)
        webhooks.end_new_task()
        (task,) = webhooks.claim_due()
        with webhooks.engine.begin() as connection:
            connection.execute(queries.delete_endpoint(endpoint_id))
        assert webhooks.run(task) == "succeeded"
        assert receiver.requests == []


def test_ping_is_tried_once_even_if_the_endpoint_is_disabled(webhooks: Webhooks) -> None:
    with run_receiver(answer_with(500)) as receiver:
        endpoint_id, secret = webhooks.add_endpoint(receiver.url, enabled=False)
        delivery_id = new_id()
        webhooks.connection.execute(queries.INSERT_PING, {"id": delivery_id, "endpoint_id": endpoint_id})
        webhooks.connection.execute(queries.START_DELIVERY, {"id": delivery_id})
        assert webhooks.run_due() == ["failed"]

    assert verify(secret, receiver.requests[0])["data"] == {"endpoint_id": str(endpoint_id)}
    assert webhooks.endpoint(endpoint_id).failing_since is None
