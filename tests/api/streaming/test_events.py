"""`GET /events`: the events of all of a caller's tasks, filters, and a cursor that skips no transaction."""

from __future__ import annotations

import httpx2
import psycopg
import pytest

from api.streaming import event_feed
from shared.settings import Settings
from tests.api.conftest import ErrorsOf, ManualWorker, Submit
from tests.api.streaming.conftest import SentEvent, follow, read_until
from tests.conftest import Api


def histories(events: list[SentEvent]) -> dict[str, list[tuple[int, str]]]:
    """Return the (seq, status) of each task, in the order in which they were sent."""
    found: dict[str, list[tuple[int, str]]] = {}
    for event in events:
        found.setdefault(event.data["task_id"], []).append((event.data["seq"], event.data.get("status", event.type)))
    return found


def test_the_events_of_all_own_tasks_are_sent_as_they_happen(
    client: httpx2.Client, manual_worker: ManualWorker, email: Submit
) -> None:
    email(client)

    with follow(client, "/events") as messages:
        begin = next(messages)
        first, second = email(client), email(client)
        manual_worker.claim(first)
        manual_worker.end(first, "succeeded", result={"recipients": []})
        events = read_until(messages, 4)

    assert (begin.type, begin.data) == ("", {})
    assert histories(events) == {
        first: [(1, "queued"), (2, "running"), (3, "succeeded")],
        second: [(1, "queued")],
    }
    assert all(event.data["kind"] == "email.send" and event.data["at"].endswith("Z") for event in events)
    assert len({event.id for event in events}) == 4
    assert "worker" not in str(events)


def test_a_stream_resumes_after_any_of_its_messages(
    client: httpx2.Client, manual_worker: ManualWorker, email: Submit
) -> None:
    with follow(client, "/events") as messages:
        begin = next(messages)
    ids = [email(client) for _ in range(3)]
    for task_id in ids:
        manual_worker.succeed(task_id)

    with follow(client, "/events", headers={"Last-Event-ID": begin.id}) as messages:
        whole = read_until(messages, 9)
    for number, event in enumerate(whole):
        if number < len(whole) - 1:
            with follow(client, "/events", params={"last_event_id": event.id}) as messages:
                assert read_until(messages, len(whole) - 1 - number) == whole[number + 1 :]

    assert set(histories(whole)) == set(ids)
    assert all(history == [(1, "queued"), (2, "running"), (3, "succeeded")] for history in histories(whole).values())


@pytest.mark.parametrize("first_to_commit", ["older", "newer"])
def test_no_cursor_skips_an_event_of_a_transaction_that_commits_late(
    client: httpx2.Client, manual_worker: ManualWorker, email: Submit, module_settings: Settings, first_to_commit: str
) -> None:
    ids = [email(client), email(client)]
    claim = {task_id: manual_worker.claim(task_id) for task_id in ids}
    assert all(claim.values())
    add = "INSERT INTO task_events (task_id, seq, type, data) VALUES (%s, 3, 'progress', '{}') RETURNING transaction_id::text"
    with (
        follow(client, "/events") as messages,
        psycopg.connect(module_settings.database_url) as older,
        psycopg.connect(module_settings.database_url) as newer,
    ):
        next(messages)
        numbers = [one.execute(add, [task_id]).fetchone() for one, task_id in zip((older, newer), ids, strict=True)]
        early, late = (older, newer) if first_to_commit == "older" else (newer, older)
        early.commit()
        (first,) = read_until(messages, 1)
        with follow(client, "/events", headers={"Last-Event-ID": first.id}) as resumed:
            late.commit()
            (second,) = read_until(messages, 1)
            (again,) = read_until(resumed, 1)
        rest = list(read_until(messages, 0))

    assert int(str(numbers[0][0])) < int(str(numbers[1][0])) if numbers[0] and numbers[1] else False
    expected = ids if first_to_commit == "older" else ids[::-1]
    assert [first.data["task_id"], second.data["task_id"]] == expected
    assert again.data == second.data
    assert rest == []


def test_a_long_history_is_read_in_steps_and_in_order(
    client: httpx2.Client, manual_worker: ManualWorker, email: Submit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_feed, "STEP_EVENTS", 4)
    with follow(client, "/events") as messages:
        begin = next(messages)
    ids = [email(client) for _ in range(6)]
    for task_id in ids:
        manual_worker.claim(task_id)
        for percent in (10, 20):
            manual_worker.report(task_id, percent)
        manual_worker.end(task_id, "succeeded", result={"recipients": []})

    with follow(client, "/events", headers={"Last-Event-ID": begin.id}) as messages:
        events = read_until(messages, 30)

    whole = [(1, "queued"), (2, "running"), (3, "progress"), (4, "progress"), (5, "succeeded")]
    assert histories(events) == dict.fromkeys(ids, whole)


def test_events_of_one_task_stay_in_order_where_a_step_separates_their_transactions(
    client: httpx2.Client,
    manual_worker: ManualWorker,
    email: Submit,
    module_settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(event_feed, "STEP_EVENTS", 1)
    task_id = email(client)
    assert manual_worker.claim(task_id)
    with follow(client, "/events") as messages:
        begin = next(messages)
    add = "INSERT INTO task_events (task_id, seq, type, data) VALUES (%s, %s, 'progress', '{}')"
    with psycopg.connect(module_settings.database_url) as older:
        # The older transaction waits, as for a lock of the task's row, and writes the later event.
        older.execute("SELECT pg_current_xact_id()")
        for seq in (3, 4, 5):
            manual_worker.connection.execute(add, [task_id, seq])
        older.execute(add, [task_id, 6])

    with follow(client, "/events", headers={"Last-Event-ID": begin.id}) as messages:
        events = read_until(messages, 4)

    assert [event.data["seq"] for event in events] == [3, 4, 5, 6]


def test_foreign_tasks_are_not_in_the_stream(
    client: httpx2.Client, stranger: httpx2.Client, email: Submit, short_intervals: None
) -> None:
    own_id = str(client.get("/tasks", params={"limit": 1}).json()["items"][0]["id"])
    owner = str(client.get("/tasks", params={"limit": 1}).json()["items"][0].get("owner", ""))
    with follow(stranger, "/events") as messages:
        next(messages)
        email(client)
        mine = email(stranger)
        (event,) = read_until(messages, 1)
        after = [next(messages).type for _ in range(3)]

    assert event.data["task_id"] == mine != own_id
    assert after == ["", "", ""]
    assert owner == ""


def test_filters_select_events_as_in_the_list(
    client: httpx2.Client, manual_worker: ManualWorker, email: Submit
) -> None:
    batch = client.post(
        "/tasks/batch",
        json={"tasks": [{"kind": "email.send", "params": {"to": ["a@example.com"], "text": "x"}, "tags": ["red"]}]},
    ).json()
    (in_batch,) = (task["id"] for task in batch["tasks"])
    other = email(client, tags=["blue"], metadata={"team": "sales", "floor": "2"})
    with follow(client, "/events") as messages:
        begin = next(messages)
    for task_id in (in_batch, other):
        manual_worker.succeed(task_id)

    found = {}
    for name, value in {
        "tag": "blue",
        "metadata.team": "sales",
        "batch_id": batch["batch_id"],
        "status": "succeeded,failed",
        "kind": "email.send",
        "queue": "email",
        "created_after": "2020-01-01T00:00:00Z",
    }.items():
        expected = 4 if name in {"kind", "queue", "created_after"} else 2
        with follow(client, "/events", params={name: value}, headers={"Last-Event-ID": begin.id}) as messages:
            found[name] = histories(read_until(messages, expected))

    assert found["tag"] == found["metadata.team"] == {other: [(2, "running"), (3, "succeeded")]}
    assert found["batch_id"] == {in_batch: [(2, "running"), (3, "succeeded")]}
    assert found["status"] == {in_batch: [(3, "succeeded")], other: [(3, "succeeded")]}
    assert found["kind"] == found["queue"] == found["created_after"] == found["tag"] | found["batch_id"]


def test_reruns_and_errors_select_events(client: httpx2.Client, manual_worker: ManualWorker, email: Submit) -> None:
    done, failing = email(client), email(client)
    manual_worker.succeed(done)
    with follow(client, "/events") as messages:
        begin = next(messages)
    manual_worker.fail(failing)
    rerun = client.post(f"/tasks/{done}/rerun").json()["id"]

    def read_one(**filters: str) -> dict[str, list[tuple[int, str]]]:
        with follow(client, "/events", params=filters, headers={"Last-Event-ID": begin.id}) as messages:
            return histories(read_until(messages, 1))

    assert read_one(rerun_of=done) == {rerun: [(1, "queued")]}
    assert read_one(error_type="/problems/worker-lost") == {failing: [(3, "failed")]}


def test_a_stream_without_events_moves_its_position(
    client: httpx2.Client, operator: httpx2.Client, ping: Submit, short_intervals: None
) -> None:
    with follow(client, "/events") as messages:
        first = next(messages)
        ping(operator)
        moved = next(message for message in messages if message.id != first.id)

    assert (moved.type, moved.data) == ("", {})


@pytest.mark.parametrize(
    ("parameters", "pointer", "code"),
    [
        ({"last_event_id": "x"}, "query:last_event_id", "invalid_cursor"),
        ({"last_event_id": "7"}, "query:last_event_id", "invalid_cursor"),
        ({"status": "running,asleep"}, "query:status", "enum"),
        ({"limit": "3"}, "query:limit", "extra_forbidden"),
        ({"kind": "a\x00b"}, "query:kind", "nul_character"),
    ],
)
def test_unknown_ids_and_filters_are_refused(
    client: httpx2.Client, errors_of: ErrorsOf, parameters: dict[str, str], pointer: str, code: str
) -> None:
    assert errors_of(client.get("/events", params=parameters)) == {pointer: code}


def test_a_cursor_from_before_a_restore_is_refused(
    served: Api, client: httpx2.Client, errors_of: ErrorsOf, module_settings: Settings
) -> None:
    from api.streaming.feed_stream import Cursor

    future = Cursor("900000000000:900000000000:").write(module_settings)

    answer = client.get("/events", headers={"Last-Event-ID": future})

    assert errors_of(answer) == {"header:Last-Event-ID": "invalid_cursor"}
