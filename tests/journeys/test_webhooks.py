"""A webhook from the end of a task to its receiver, through the whole stack."""

from __future__ import annotations

import httpx2
from standardwebhooks import Webhook

from tests.conftest import Eventually
from tests.receiver import answer_in_turn, answer_with, run_receiver


def test_the_webhook_of_a_task_is_sent_until_the_receiver_accepts_it(
    stack_client: httpx2.Client, eventually: Eventually
) -> None:
    first_refused = answer_in_turn(answer_with(503, headers="retry-after: 1\r\n"), answer_with(204))
    with run_receiver(first_refused) as receiver:
        hook = {"url": receiver.url, "event_types": ["task.succeeded"], "tags": ["journey"]}
        endpoint = stack_client.post("/webhook-endpoints", json=hook).json()
        options = {"tags": ["journey"], "notify": {"email": ["ada@example.com"], "on": ["succeeded"]}}
        task_id = stack_client.post("/tasks", json={"kind": "platform.ping", **options}).json()["id"]
        first, second = receiver.wait_for_requests(2)

    def list_deliveries(outcome: str) -> list[dict[str, object]]:
        query = {"task_id": task_id, "outcome": outcome}
        items: list[dict[str, object]] = stack_client.get("/webhook-deliveries", params=query).json()["items"]
        return items

    (delivery,) = eventually(lambda: list_deliveries("delivered"))
    assert Webhook(endpoint["secret"]).verify(second.body, second.headers)["data"]["id"] == task_id
    assert first.headers["webhook-id"] == second.headers["webhook-id"] == delivery["id"]
    tries = stack_client.get(f"/webhook-deliveries/{delivery['id']}").json()["attempts"]
    assert [one["status"] for one in tries] == [503, 204]
    mails = stack_client.get("/tasks", params={"kind": "email.send", "parent_id": task_id}).json()["items"]
    assert [mail["params"]["subject"] for mail in mails] == ["Task succeeded: platform.ping"]
    stack_client.delete(endpoint["links"]["self"])
