"""Mail servers that do not answer, defer, reject, or close the connection after the message."""

from __future__ import annotations

import time
from collections.abc import Callable

import httpx2

from tests.faults.conftest import MailServer, Room


def test_a_mail_server_that_does_not_answer_delays_no_other_queue(
    room: Room, client: httpx2.Client, mail: MailServer, lasting: Callable[[float, float], float]
) -> None:
    room.relay()
    room.worker(queues="email", concurrency=1)
    room.worker(queues="files")
    mail.handler.goes_on.clear()
    emails = {room.email(client, f"r{number}@example.com"): f"r{number}@example.com" for number in range(3)}
    first = next(iter(emails))
    room.wait_for(first, "running")
    end = time.monotonic() + lasting(0, 300)
    while True:
        pings = room.submit_many(client, 20)
        room.eventually(lambda these=pings: {room.statuses().get(task_id) for task_id in these} == {"succeeded"})
        if time.monotonic() >= end:
            break
        time.sleep(2)
    still_running = room.statuses()[first] == "running"
    mail.handler.goes_on.set()

    statuses = room.settle()
    for task_id, address in emails.items():
        # Without a reply for as long as an attempt may last, the outcome is unknown.
        unknown = statuses[task_id] == "failed" and room.error_type(task_id) == "/problems/delivery-unknown"
        assert unknown or statuses[task_id] == "succeeded"
        assert mail.recipients.count(address) == 1 or unknown
    if still_running:
        assert {statuses[task_id] for task_id in emails} == {"succeeded"}
    assert len(mail.recipients) == len(set(mail.recipients))


def test_a_deferred_message_is_sent_once_and_its_task_shows_why(
    room: Room, client: httpx2.Client, mail: MailServer
) -> None:
    room.relay()
    room.worker()
    mail.handler.answers = ["421 Later", "451 Later still"]
    task_id = room.email(client)
    for attempt in (1, 2):
        room.eventually(lambda n=attempt: room.attempts(task_id) == n)
        room.wait_for(task_id, "retrying")
        error = client.get(f"/tasks/{task_id}").json()["error"]
        assert (error["type"], error["attempt"]) == ("/problems/mail-deferred", attempt)
        assert error["data"]["recipients"][0]["reply"] == ("Later" if attempt == 1 else "Later still")
        # The next attempt is due in half a minute or more.
        room.ask("UPDATE tasks SET next_attempt_at = now() WHERE status = 'retrying'")

    assert room.settle()[task_id] == "succeeded"
    assert mail.recipients == ["a@example.com"]


def test_a_rejected_message_fails_and_one_without_a_reply_is_unknown(
    room: Room, client: httpx2.Client, mail: MailServer
) -> None:
    room.relay()
    room.worker(concurrency=1)
    mail.handler.answers = ["550 No"]
    refused = room.email(client)
    room.wait_for(refused, "failed")
    mail.handler.hang_up_after_content = 1
    unknown = room.email(client)

    statuses = room.settle()

    assert (statuses[refused], room.error_type(refused)) == ("failed", "/problems/mail-rejected")
    assert (statuses[unknown], room.error_type(unknown)) == ("failed", "/problems/delivery-unknown")
    assert len(mail.recipients) == 1
