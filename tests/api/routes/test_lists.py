"""`GET /tasks`: pages, filters, and several tasks by their ids."""

from __future__ import annotations

import base64
from datetime import datetime
from itertools import chain, pairwise
from uuid import UUID

import httpx2
import pytest

from shared.identifiers import least_id, new_id
from tests.api.conftest import ErrorsOf, ManualWorker, Submit
from tests.conftest import Api


@pytest.fixture(scope="module")
def someone_else(served: Api) -> httpx2.Client:
    """An operator. Each test finds its own tasks by its tag."""
    client: httpx2.Client = served.client("lister", "operator")
    return client


@pytest.fixture
def tag() -> str:
    return new_id().hex


def ids_of(answer: httpx2.Response) -> list[str]:
    assert answer.status_code == 200, answer.text
    return [task["id"] for task in answer.json()["items"]]


def test_a_list_has_the_newest_first_in_pages(operator: httpx2.Client, ping: Submit, tag: str) -> None:
    made = [ping(tags=[tag]) for _ in range(5)]

    first = operator.get("/tasks", params={"tag": tag, "limit": 2})
    second = operator.get("/tasks", params={"tag": tag, "limit": 2, "cursor": first.json()["next_cursor"]})
    third = operator.get("/tasks", params={"tag": tag, "limit": 2, "cursor": second.json()["next_cursor"]})

    assert list(first.json()) == ["items", "next_cursor"]
    assert ids_of(first) + ids_of(second) + ids_of(third) == made[::-1]
    assert third.json()["next_cursor"] is None
    assert first.json()["items"][0] == operator.get(f"/tasks/{made[-1]}").json()


def test_a_page_that_ends_exactly_at_the_end_has_no_next(operator: httpx2.Client, ping: Submit, tag: str) -> None:
    for _ in range(2):
        ping(tags=[tag])

    assert operator.get("/tasks", params={"tag": tag, "limit": 2}).json()["next_cursor"] is None


def test_a_list_holds_the_tasks_of_one_owner(served: Api, operator: httpx2.Client, email: Submit, tag: str) -> None:
    submitters = [served.client("first-owner"), served.client("second-owner")]
    first, second = (email(by=submitter, tags=[tag]) for submitter in submitters)
    owner = operator.get(f"/tasks/{first}").json()["owner"]["id"]

    found = operator.get("/tasks", params={"tag": tag, "owner": owner})
    by_the_other = submitters[1].get("/tasks", params={"owner": owner})

    assert ids_of(found) == [first]
    assert second in ids_of(operator.get("/tasks", params={"tag": tag}))
    assert ids_of(by_the_other) == []
    assert ids_of(operator.get("/tasks", params={"owner": str(new_id())})) == []


def test_pages_are_stable_while_tasks_come_and_go(
    operator: httpx2.Client, ping: Submit, manual_worker: ManualWorker, tag: str
) -> None:
    made = [ping(tags=[tag]) for _ in range(6)]
    first = operator.get("/tasks", params={"tag": tag, "limit": 2})
    for _ in range(3):
        ping(tags=[tag])
    manual_worker.succeed(made[4])
    operator.delete(f"/tasks/{made[4]}")

    second = operator.get("/tasks", params={"tag": tag, "limit": 4, "cursor": first.json()["next_cursor"]})

    assert ids_of(second) == made[:4][::-1]


def test_a_page_has_50_items_by_default_and_200_at_most(operator: httpx2.Client, tag: str) -> None:
    batch = {"tasks": [{"kind": "platform.ping", "tags": [tag]}] * 201}
    made = [task["id"] for task in operator.post("/tasks/batch", json=batch).json()["tasks"]]

    usual = ids_of(operator.get("/tasks", params={"tag": tag}))
    most = ids_of(operator.get("/tasks", params={"tag": tag, "limit": 200}))

    assert usual == made[::-1][:50]
    assert most == made[::-1][:200]


@pytest.mark.parametrize("limit", ["0", "201", "-1", "1.0", "x", "", " 5", "+5", "1_0", "9" * 30, "١"])
def test_a_limit_out_of_bounds_is_refused(operator: httpx2.Client, errors_of: ErrorsOf, limit: str) -> None:
    assert list(errors_of(operator.get("/tasks", params={"limit": limit}))) == ["query:limit"]


def test_a_cursor_that_no_page_contained_is_refused(operator: httpx2.Client, errors_of: ErrorsOf, ping: Submit) -> None:
    ping(), ping()
    cursor = operator.get("/tasks", params={"limit": 1}).json()["next_cursor"]
    raw = bytearray(base64.urlsafe_b64decode(cursor))
    raw[3] ^= 1
    tampered = base64.urlsafe_b64encode(bytes(raw)).decode()

    for wrong in (
        tampered,
        cursor[:-1],
        cursor + "A",
        cursor + "!",
        "!" + cursor,
        cursor + "\n",
        "",
        "x",
        "ü",
        str(new_id()),
    ):
        assert errors_of(operator.get("/tasks", params={"cursor": wrong})) == {"query:cursor": "invalid_cursor"}
    assert operator.get("/tasks", params={"cursor": cursor}).status_code == 200


def test_filters_can_be_combined(operator: httpx2.Client, ping: Submit, manual_worker: ManualWorker, tag: str) -> None:
    queued = ping(tags=[tag, "x"])
    scheduled = ping(tags=[tag], delay=3600)
    done = ping(tags=[tag, "x"], params={"queue": "email"})
    manual_worker.succeed(done)
    email = operator.post("/emails", json={"to": ["a@example.com"], "text": "x", "tags": [tag]}).json()["id"]

    def find(**filters: str) -> set[str]:
        return set(ids_of(operator.get("/tasks", params={"tag": tag, **filters})))

    assert find() == {queued, scheduled, done, email}
    assert find(status="queued") == {queued, email}
    assert find(status="scheduled,succeeded") == {scheduled, done}
    assert find(kind="platform.ping") == {queued, scheduled, done}
    assert find(kind="no.such") == set()
    assert find(queue="email") == {done, email}
    assert find(queue="email", kind="platform.ping") == {done}
    assert find(queue="email", status="running") == set()
    assert find(tag="x", status="succeeded") >= {done}


def test_tags_with_any_characters_are_found(operator: httpx2.Client, ping: Submit, tag: str) -> None:
    odd = f"{tag[:20]},{{}}\"\\'% ü"
    task_id = ping(tags=[odd])

    assert ids_of(operator.get("/tasks", params={"tag": odd})) == [task_id]
    assert ids_of(operator.get("/tasks", params={"tag": odd[:-1]})) == []


def make_old(manual_worker: ManualWorker, task_id: str, created_at: str) -> str:
    """Change when a task was created; return its new id, which contains the time."""
    least = least_id(datetime.fromisoformat(created_at))
    old_id = str(UUID(int=least.int | UUID(task_id).int & (1 << 80) - 1))
    with manual_worker.connection.transaction():
        manual_worker.connection.execute("SET LOCAL session_replication_role = replica")
        manual_worker.connection.execute(
            "UPDATE tasks SET id = %s, created_at = %s WHERE id = %s", [old_id, created_at, task_id]
        )
        manual_worker.connection.execute("UPDATE task_payloads SET task_id = %s WHERE task_id = %s", [old_id, task_id])
    return old_id


def test_tasks_are_found_by_created_after_and_created_before(
    operator: httpx2.Client, ping: Submit, manual_worker: ManualWorker, tag: str
) -> None:
    old, new = ping(tags=[tag]), ping(tags=[tag])
    old = make_old(manual_worker, old, "2020-06-01T12:00:00Z")

    def find(**filters: str) -> set[str]:
        return set(ids_of(operator.get("/tasks", params={"tag": tag, **filters})))

    assert find(created_before="2020-06-01T12:00:01Z") == {old}
    assert find(created_before="2020-06-01T12:00:00Z") == set()
    assert find(created_after="2020-06-01T14:00:00+02:00") == {old, new}
    assert find(created_after="2020-06-01T12:00:00.001Z") == {new}
    assert find(created_after="9999-12-31T23:59:59.999999Z") == set()
    assert find(created_after="0001-01-01T00:00:00+23:59", created_before="9999-12-31T23:59:59-23:59") == {old, new}


@pytest.mark.parametrize("second", ["00.123", "00.123456", "00.1234", "00.123999", "00.000", "00.999999"])
def test_adjoining_windows_of_creation_lose_and_repeat_no_task(
    operator: httpx2.Client, ping: Submit, manual_worker: ManualWorker, tag: str, second: str
) -> None:
    task_id = make_old(manual_worker, ping(tags=[tag]), f"2021-06-01T12:00:{second}Z")
    bounds = ["00.000", "00.122", "00.123", "00.1232", "00.1235", "00.124", "00.999", "00.9995", "01.000"]
    moments = [f"2021-06-01T12:00:{bound}Z" for bound in bounds]

    for boundary in moments:
        before = ids_of(operator.get("/tasks", params={"tag": tag, "created_before": boundary}))
        after = ids_of(operator.get("/tasks", params={"tag": tag, "created_after": boundary}))
        assert before + after == [task_id], boundary
    windows = [
        ids_of(operator.get("/tasks", params={"tag": tag, "created_after": start, "created_before": end}))
        for start, end in pairwise(moments)
    ]
    assert list(chain.from_iterable(windows)) == [task_id]


def test_a_window_of_creation_begins_with_the_time_that_a_task_shows(
    operator: httpx2.Client, ping: Submit, manual_worker: ManualWorker, tag: str
) -> None:
    task_id = ping(tags=[tag])
    task_id = make_old(manual_worker, task_id, "2020-06-01T12:00:00.123456Z")
    told = operator.get(f"/tasks/{task_id}").json()["created_at"]

    def find(**filters: str) -> list[str]:
        return ids_of(operator.get("/tasks", params={"tag": tag, **filters}))

    assert told == "2020-06-01T12:00:00.123Z"
    assert find(created_after=told) == [task_id]
    assert find(created_after="2020-06-01T12:00:00.124Z") == []
    assert find(created_before=told) == []
    assert find(created_before="2020-06-01T12:00:00.124Z") == [task_id]


def test_a_batch_is_found_by_its_id(operator: httpx2.Client) -> None:
    batch = operator.post("/tasks/batch", json={"tasks": [{"kind": "platform.ping"}] * 3}).json()

    found = ids_of(operator.get("/tasks", params={"batch_id": batch["batch_id"]}))

    assert found == [task["id"] for task in batch["tasks"]][::-1]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("status", "done"),
        ("status", ""),
        ("status", "queued,"),
        ("status", "Queued"),
        ("queue", "nope"),
        ("queue", ""),
        ("batch_id", "x"),
        ("batch_id", ""),
        ("created_after", "yesterday"),
        ("created_after", "2030-01-01"),
        ("created_after", "2030-01-01T00:00:00"),
        ("created_before", "1893456000"),
        ("created_before", ""),
        ("kind", "a\0"),
        ("kind", "x" * 101),
        ("tag", "\0"),
        ("tag", "x" * 65),
        ("ids", ""),
        ("ids", "x"),
        ("ids", "0199c0de-0000-7000-8000-000000000001,"),
        ("ids", ",".join(f"0199c0de-0000-7000-8000-{n:012d}" for n in range(101))),
    ],
)
def test_an_invalid_filter_is_refused(operator: httpx2.Client, errors_of: ErrorsOf, name: str, value: str) -> None:
    assert list(errors_of(operator.get("/tasks", params={name: value}))) == [f"query:{name}"]


# By ids


def test_tasks_by_ids_come_in_the_order_asked_for_with_those_that_are_missing(
    operator: httpx2.Client, ping: Submit
) -> None:
    a, b, nowhere = ping(), ping(), str(new_id())

    answer = operator.get("/tasks", params={"ids": f"{b},{nowhere},{a},{b}"})

    assert list(answer.json()) == ["items", "missing"]
    assert ids_of(answer) == [b, a]
    assert answer.json()["missing"] == [nowhere]
    assert answer.json()["items"][1] == operator.get(f"/tasks/{a}").json()


def test_up_to_a_hundred_ids_are_accepted(operator: httpx2.Client) -> None:
    batch = operator.post("/tasks/batch", json={"tasks": [{"kind": "platform.ping"}] * 100}).json()
    ids = [task["id"] for task in batch["tasks"]]

    assert ids_of(operator.get("/tasks", params={"ids": ",".join(ids)})) == ids


def test_ids_allow_no_other_parameter(operator: httpx2.Client, errors_of: ErrorsOf) -> None:
    for other in ({"limit": "5"}, {"status": "queued"}, {"cursor": "x"}):
        found = errors_of(operator.get("/tasks", params={"ids": str(new_id()), **other}))
        assert found == {f"query:{next(iter(other))}": "not_with_ids"}
