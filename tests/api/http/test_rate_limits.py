"""Rate limits: how many requests a caller may make, and the headers of every limited route."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

import httpx2
import pytest

from shared.identifiers import new_id
from shared.settings import Settings
from tests.conftest import Api, Eventually

EMAIL = {"to": ["ada@example.com"], "text": "hello"}
LIMIT = 5


@pytest.fixture
def limited(settings: Settings, serve: Callable[[Settings], AbstractContextManager[Api]]) -> Iterator[Api]:
    """An API with small limits."""
    with serve(settings.model_copy(update={"rate_limit_client": LIMIT, "rate_limit_unauthenticated": LIMIT})) as api:
        yield api


def remaining(answer: httpx2.Response) -> int:
    assert answer.headers["x-ratelimit-limit"] == str(LIMIT)
    assert 0 < int(answer.headers["x-ratelimit-reset"]) - time.time() < 62
    return int(answer.headers["x-ratelimit-remaining"])


def require_refusal(answer: httpx2.Response) -> None:
    assert (answer.status_code, answer.json()["type"]) == (429, "/problems/rate-limited")
    assert answer.headers["content-type"] == "application/problem+json"
    assert 1 <= int(answer.headers["retry-after"]) <= 61
    assert remaining(answer) == 0


def test_reading_is_counted_in_one_counter_whatever_route_is_read(limited: Api) -> None:
    client = limited.client()

    left = [
        remaining(client.get("/tasks")),
        remaining(client.get(f"/tasks/{new_id()}")),
        remaining(client.get("/kinds")),
        remaining(client.head(f"/tasks/{new_id()}")),
        remaining(client.get("/files")),
    ]

    assert left == [4, 3, 2, 1, 0]
    for path in ("/tasks", f"/tasks/{new_id()}", "/kinds", f"/files/{new_id()}", f"/batches/{new_id()}"):
        require_refusal(client.get(path))


def test_submitting_is_counted_in_one_counter_and_apart_from_reading(limited: Api) -> None:
    client = limited.client()

    left = [
        remaining(client.post("/emails", json=EMAIL)),
        remaining(client.post("/tasks", json={"kind": "email.send", "params": EMAIL})),
        remaining(client.post("/tasks/batch", json={"tasks": [{"kind": "email.send", "params": EMAIL}]})),
        remaining(client.post(f"/tasks/{new_id()}/cancel")),
        remaining(client.delete(f"/tasks/{new_id()}")),
    ]

    assert left == [4, 3, 2, 1, 0]
    require_refusal(client.post("/emails", json=EMAIL))
    require_refusal(client.post("/tasks", json={"kind": "email.send", "params": EMAIL}))
    assert remaining(client.get("/tasks")) == 4
    assert remaining(client.post("/files", files={"file": ("a.txt", b"x")})) == 4


def test_refused_requests_count_and_have_rate_limit_headers(limited: Api) -> None:
    reader = limited.client(scopes=["tasks:write"])
    writer = limited.client("other", scopes=["tasks:read"])

    answers = [
        reader.get("/tasks"),
        reader.get(f"/tasks/{new_id()}"),
        reader.get("/kinds?x=1"),
        writer.post("/emails", json=EMAIL),
        writer.post("/tasks", json={}),
        writer.get("/tasks?limit=0"),
        writer.get("/tasks/x"),
        writer.get("/tasks?limit=1&limit=1"),
        writer.get(f"/batches/{new_id()}"),
    ]

    assert [answer.status_code for answer in answers] == [403, 403, 403, 403, 403, 422, 422, 422, 404]
    assert [remaining(answer) for answer in answers] == [4, 3, 2, 4, 3, 4, 3, 2, 1]
    assert remaining(writer.get("/kinds?x=1")) == 0
    require_refusal(writer.get("/tasks?limit=0"))


def test_answers_about_a_task_have_rate_limit_headers_for_every_status(limited: Api) -> None:
    client = limited.client()
    task_id = client.post("/emails", json=EMAIL).json()["id"]

    statuses = [
        client.get(f"/tasks/{task_id}"),
        client.get(f"/tasks/{task_id}", headers={"if-none-match": "*"}),
        client.post("/tasks", content=b"{", headers={"content-type": "application/json"}),
        client.post("/tasks", content=b"x"),
        client.post("/tasks?validate_only=true", json={"kind": "email.send", "params": EMAIL}),
    ]

    assert [answer.status_code for answer in statuses] == [200, 304, 422, 415, 200]
    assert [remaining(answer) for answer in statuses] == [4, 3, 3, 2, 1]


def test_each_caller_has_its_own_limit_for_all_of_its_keys(limited: Api) -> None:
    first, second, other = limited.client("a"), limited.client("a"), limited.client("b")

    assert remaining(first.get("/tasks")) == 4
    assert remaining(second.get("/tasks")) == 3
    assert remaining(other.get("/tasks")) == 4


def test_operators_and_admins_have_no_limit_that_they_could_reach(limited: Api) -> None:
    for role in ("operator", "admin"):
        client = limited.client(role, role)
        answers = [client.get("/tasks") for _ in range(LIMIT + 2)]
        assert {answer.status_code for answer in answers} == {200}
        assert int(answers[-1].headers["x-ratelimit-remaining"]) > 1_000_000


def test_refused_credentials_are_limited_for_each_address(limited: Api) -> None:
    wrong = limited.client_with("tm_000000000000_wrong")

    left = [
        remaining(answer)
        for answer in (
            wrong.get("/tasks"),
            wrong.get(f"/tasks/{new_id()}"),
            limited.client_with(None).post("/emails", json=EMAIL),
            wrong.post("/tasks", json={}),
            wrong.get("/files"),
        )
    ]

    assert left == [4, 3, 2, 1, 0]
    require_refusal(wrong.get("/tasks"))
    require_refusal(wrong.get(f"/tasks/{new_id()}"))
    assert limited.client().get("/tasks").status_code == 200


def test_a_limit_ends_with_its_minute(limited: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    client = limited.client()
    for _ in range(LIMIT):
        client.get("/tasks")
    refused = client.get("/tasks")
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() + int(refused.headers["retry-after"]) + 1)

    assert client.get("/tasks").status_code == 200


def test_open_routes_have_no_limit(limited: Api) -> None:
    nobody = limited.client_with(None)

    for path in ("/health", "/problems/gone", "/openapi.json"):
        answers = [nobody.get(path) for _ in range(LIMIT + 2)]
        assert {answer.status_code for answer in answers} == {200}


def test_the_headers_of_the_ietf_draft_stand_beside_the_older_ones(limited: Api) -> None:
    client = limited.client()

    for answer in (client.get("/kinds"), client.get(f"/tasks/{new_id()}")):
        left = int(answer.headers["x-ratelimit-remaining"])
        seconds = int(answer.headers["ratelimit"].removeprefix(f'"read";r={left};t='))
        assert 0 <= seconds <= 60
        assert answer.headers["ratelimit-policy"] == f'"read";q={LIMIT};w=60'


def test_an_organization_has_a_limit_of_its_own_for_a_class_of_routes(limited: Api, eventually: Eventually) -> None:
    client, admin = limited.client(), limited.client("admin", "admin")
    organization_id = client.get("/usage").json()["organization_id"]

    answer = admin.put(f"/organizations/{organization_id}/limits", json={"requests_per_minute": {"read": 1000}})

    assert answer.status_code == 200, answer.text
    eventually(lambda: client.get("/kinds").headers["x-ratelimit-limit"] == "1000")
    assert client.post("/emails", json=EMAIL).headers["x-ratelimit-limit"] == str(LIMIT)
