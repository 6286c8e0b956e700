"""`GET /tasks/<id>/events`: past events, new events as they happen, and resuming after a lost connection."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, NamedTuple
from uuid import UUID

import httpx2
import pytest

from api.following import waiters
from api.streaming import streams, task_stream
from shared.api_keys import revoke_key
from shared.settings import Settings
from tests.api.conftest import ErrorsOf, ManualWorker, PublishWakeup, Submit, count_waiters
from tests.conftest import Api, Eventually, ServeApi


class Event(NamedTuple):
    id: int
    type: str
    data: dict[str, Any]


def read_events(lines: Iterator[str]) -> Iterator[Event]:
    """Yield the events of a stream, as a browser reads them (HTML Living Standard, section 9.2.6)."""
    fields: dict[str, str] = {}
    for line in lines:
        if line:
            name, _, value = line.partition(":")
            fields[name] = value.removeprefix(" ")
        elif "data" in fields:
            yield Event(int(fields["id"]), fields["event"], json.loads(fields["data"]))
            fields = {}
        else:
            fields = {}


@contextmanager
def stream(
    client: httpx2.Client,
    task_id: str,
    *,
    params: Mapping[str, str] | None = None,
    headers: Mapping[str, str] | None = None,
) -> Iterator[Iterator[Event]]:
    with client.stream("GET", f"/tasks/{task_id}/events", params=params, headers=headers) as answer:
        assert answer.status_code == 200
        yield read_events(answer.iter_lines())


def statuses(events: list[Event]) -> list[str]:
    return [event.data["status"] for event in events if event.type == "status"]


def test_the_history_of_a_done_task_is_sent_whole_and_the_stream_ends(
    operator: httpx2.Client, manual_worker: ManualWorker, ping: Submit
) -> None:
    task_id = ping()
    manual_worker.claim(task_id)
    manual_worker.report(task_id, 40, "2 of 5")
    manual_worker.end(task_id, "succeeded", result={"echo": None})

    with operator.stream("GET", f"/tasks/{task_id}/events") as answer:
        events = list(read_events(answer.iter_lines()))

    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.headers["cache-control"] == "no-store"
    assert [event.id for event in events] == [1, 2, 3, 4]
    assert [event.type for event in events] == ["status", "status", "progress", "status"]
    assert statuses(events) == ["queued", "running", "succeeded"]
    assert events[2].data.items() >= {"percent": 40, "message": "2 of 5"}.items()
    assert all(event.data["at"].endswith("Z") for event in events)


def test_events_are_sent_as_they_happen(
    operator: httpx2.Client, manual_worker: ManualWorker, ping: Submit, publish_wakeup: PublishWakeup
) -> None:
    task_id = ping()
    seen = []

    with stream(operator, task_id) as events:
        seen.append(next(events))
        manual_worker.claim(task_id)
        publish_wakeup(task_id)
        seen.append(next(events))
        manual_worker.end(task_id, "succeeded", result={"echo": None})
        publish_wakeup(task_id)
        seen += list(events)

    assert statuses(seen) == ["queued", "running", "succeeded"]


def test_events_are_sent_without_any_wake_up(
    operator: httpx2.Client, manual_worker: ManualWorker, ping: Submit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiters, "LISTENING_POLL_SECONDS", 0.2)
    task_id = ping()

    with stream(operator, task_id) as events:
        first = next(events)
        manual_worker.succeed(task_id)
        rest = list(events)

    assert statuses([first, *rest]) == ["queued", "running", "succeeded"]


def test_a_task_that_no_wake_up_names_is_read_soon_after_that_of_another(
    operator: httpx2.Client,
    manual_worker: ManualWorker,
    ping: Submit,
    publish_wakeup: PublishWakeup,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(waiters, "LISTENING_POLL_SECONDS", 600.0)
    ended_before, task_id = ping(), ping()

    with stream(operator, task_id) as events:
        first = next(events)
        manual_worker.succeed(task_id)
        publish_wakeup(ended_before)
        rest = list(events)

    assert statuses([first, *rest]) == ["queued", "running", "succeeded"]


@pytest.mark.parametrize("by", ["header", "query"])
def test_a_stream_resumes_after_the_last_received_event(
    operator: httpx2.Client, manual_worker: ManualWorker, ping: Submit, by: str
) -> None:
    task_id = ping()
    manual_worker.succeed(task_id)
    options: dict[str, Any] = (
        {"headers": {"Last-Event-ID": "2"}} if by == "header" else {"params": {"last_event_id": "2"}}
    )

    with stream(operator, task_id, **options) as events:
        assert [event.id for event in events] == [3]


def test_the_stream_of_a_retried_task_continues_past_the_earlier_end(
    operator: httpx2.Client, manual_worker: ManualWorker, ping: Submit, publish_wakeup: PublishWakeup
) -> None:
    task_id = ping()
    manual_worker.fail(task_id)
    assert operator.post(f"/tasks/{task_id}/retry").status_code == 202

    with stream(operator, task_id) as events:
        seen = [next(events) for _ in range(4)]
        manual_worker.succeed(task_id)
        publish_wakeup(task_id)
        seen += list(events)

    assert statuses(seen) == ["queued", "running", "failed", "queued", "running", "succeeded"]


def test_more_events_than_are_read_at_once_come_in_order(
    operator: httpx2.Client, manual_worker: ManualWorker, ping: Submit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(task_stream, "EVENTS_AT_ONCE", 3)
    task_id = ping()
    manual_worker.claim(task_id)
    for percent in range(1, 9):
        manual_worker.report(task_id, percent)
    manual_worker.end(task_id, "succeeded", result={"echo": None})

    with stream(operator, task_id) as events:
        assert [event.id for event in events] == list(range(1, 12))


def test_many_listeners_each_see_the_whole_history(
    operator: httpx2.Client, manual_worker: ManualWorker, ping: Submit, publish_wakeup: PublishWakeup
) -> None:
    task_id = ping()
    connected = threading.Barrier(21)

    def listen() -> list[int]:
        with stream(operator, task_id) as events:
            ids = [next(events).id]
            connected.wait(timeout=60)
            return ids + [event.id for event in events]

    with ThreadPoolExecutor(20) as pool:
        listeners = [pool.submit(listen) for _ in range(20)]
        connected.wait(timeout=60)
        manual_worker.claim(task_id)
        for percent in (10, 20, 30):
            manual_worker.report(task_id, percent)
            publish_wakeup(task_id)
        manual_worker.end(task_id, "succeeded", result={"echo": None})
        publish_wakeup(task_id)

    assert [listener.result() for listener in listeners] == [list(range(1, 7))] * 20


def test_a_stream_without_events_sends_comments(
    operator: httpx2.Client, ping: Submit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "KEEP_ALIVE_COMMENT_SECONDS", 0.05)
    task_id = ping()

    with operator.stream("GET", f"/tasks/{task_id}/events") as answer:
        comments = (line for line in answer.iter_lines() if line.startswith(":"))
        assert [next(comments) for _ in range(3)] == [": keep-alive"] * 3


def test_events_of_a_foreign_or_missing_task_are_not_found(
    client: httpx2.Client, stranger: httpx2.Client, email: Submit
) -> None:
    task_id = email(client)

    assert stranger.get(f"/tasks/{task_id}/events").status_code == 404
    assert stranger.get(f"/tasks/{UUID(int=7)}/events").status_code == 404


@pytest.mark.parametrize("value", ["-1", "x", "1.5", "9" * 12, "٣"])
def test_an_id_that_no_event_has_is_refused(
    operator: httpx2.Client, ping: Submit, errors_of: ErrorsOf, value: str
) -> None:
    answer = operator.get(f"/tasks/{ping()}/events", params={"last_event_id": value})

    assert errors_of(answer) == {"query:last_event_id": "int_parsing"}


def test_a_client_that_has_every_event_of_a_done_task_is_answered_204(
    operator: httpx2.Client, manual_worker: ManualWorker, ping: Submit
) -> None:
    task_id = ping()
    manual_worker.succeed(task_id)
    with stream(operator, task_id) as events:
        last = max(event.id for event in events)

    seen_all = operator.get(f"/tasks/{task_id}/events", headers={"Last-Event-ID": str(last)})
    with stream(operator, task_id, headers={"Last-Event-ID": str(last - 1)}) as events:
        missed = [event.id for event in events]

    assert (seen_all.status_code, seen_all.content) == (204, b"")
    assert missed == [last]


def test_the_stream_of_a_task_that_is_deleted_meanwhile_ends(
    admin: httpx2.Client, manual_worker: ManualWorker, ping: Submit, publish_wakeup: PublishWakeup
) -> None:
    task_id = ping(admin)

    with stream(admin, task_id) as events:
        seen = [next(events)]
        manual_worker.succeed(task_id)
        assert admin.delete(f"/tasks/{task_id}").status_code == 204
        publish_wakeup(task_id)
        seen += list(events)

    # What happened before the deletion may have been sent.
    assert statuses(seen) == ["queued", "running", "succeeded"][: len(seen)]


def test_a_stream_ends_soon_after_its_key_was_revoked(
    served: Api, module_settings: Settings, email: Submit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "KEEP_ALIVE_COMMENT_SECONDS", 0.1)
    monkeypatch.setattr(streams, "CHECK_KEY_SECONDS", 0.2)
    key = served.key("leaver")
    client = served.client_with(key.key)

    with stream(client, email(client)) as events:
        seen = [next(events)]
        revoke_key(module_settings, str(key.id))
        seen += list(events)

    assert statuses(seen) == ["queued"]


def test_a_caller_has_no_more_streams_open_than_configured(
    settings: Settings, serve: ServeApi, eventually: Eventually
) -> None:
    with serve(settings.model_copy(update={"max_streams_per_caller": 1})) as api:
        ada, bob = api.client("ada"), api.client("bob")
        path, of_bob = (
            f"/tasks/{by.post('/emails', json={'to': ['ada@example.com'], 'text': 'hello'}).json()['id']}/events"
            for by in (ada, bob)
        )
        with ada.stream("GET", path) as first:
            lines = first.iter_lines()
            next(lines)

            # Read as a stream, so that the test fails at once if it is not refused.
            with ada.stream("GET", path) as refused:
                assert (refused.status_code, refused.headers.get("retry-after")) == (429, "5")
            assert next(lines) == ""
            with bob.stream("GET", of_bob) as other:
                assert other.status_code == 200

        def is_free() -> bool:
            with ada.stream("GET", path) as again:
                return again.status_code == 200

        assert eventually(is_free)


def test_a_stream_whose_client_disconnects_leaves_no_waiter(
    operator: httpx2.Client, ping: Submit, eventually: Eventually
) -> None:
    with stream(operator, ping()) as events:
        next(events)
        # The waiter is made after the first events were sent.
        eventually(lambda: count_waiters() == 1)

    eventually(lambda: count_waiters() == 0)


def test_head_of_a_stream_ends_at_once(operator: httpx2.Client, ping: Submit) -> None:
    answer = operator.head(f"/tasks/{ping()}/events")

    assert answer.status_code == 200
    assert answer.content == b""
