"""`max_queued` and `max_queued_per_caller`: submissions beyond them are refused until fewer tasks are queued."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from api.submitting.queue_bounds import QueueBounds
from shared.settings import Settings
from tests.conftest import Api, Eventually

EMAIL = {"to": ["ada@example.com"], "text": "hello"}


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"max_queued": 6, "max_queued_per_caller": 4})


def empty_the_queue(settings: Settings) -> None:
    with psycopg.connect(settings.database_url, autocommit=True) as connection:
        connection.execute("UPDATE tasks SET status = 'cancelled', finished_at = now(), purge_at = now()")


def test_submissions_beyond_the_bounds_of_a_caller_or_of_all_are_refused(api: Api, eventually: Eventually) -> None:
    ada, bob = api.client("ada"), api.client("bob")
    taken = [ada.post("/emails", json=EMAIL).status_code for _ in range(4)]

    of_one = ada.post("/emails", json=EMAIL)
    batch = bob.post("/tasks/batch", json={"tasks": [{"kind": "email.send", "params": EMAIL}] * 3})
    others = [bob.post("/emails", json=EMAIL).status_code for _ in range(2)]
    of_all = bob.post("/files", files={"file": ("a.txt", b"hello")})

    assert taken == [202] * 4
    assert others == [202] * 2
    for refused in (of_one, batch, of_all):
        assert (refused.status_code, refused.json()["type"]) == (429, "/problems/queue-full")
        assert int(refused.headers["Retry-After"]) > 0
    assert ada.get("/tasks").status_code == 200

    empty_the_queue(api.settings)
    eventually(lambda: ada.post("/tasks", json={"kind": "email.send", "params": EMAIL}).status_code == 202)


def test_a_stored_key_is_replayed_although_the_queue_is_full(api: Api) -> None:
    ada, task = api.client("ada"), {"kind": "email.send", "params": EMAIL}
    requests: list[tuple[str, dict[str, Any]]] = [
        ("/tasks", {"json": task}),
        ("/tasks/batch", {"json": {"tasks": [task, task]}}),
        ("/files", {"files": {"file": ("a.txt", b"hello")}}),
    ]
    first = [ada.post(path, headers={"Idempotency-Key": path}, **body) for path, body in requests]

    again = [ada.post(path, headers={"Idempotency-Key": path}, **body) for path, body in requests]
    other = [ada.post(path, headers={"Idempotency-Key": f"other{path}"}, **body) for path, body in requests]

    assert [answer.status_code for answer in first + again + other] == [202] * 6 + [429] * 3
    assert [answer.json() for answer in again] == [answer.json() for answer in first]


def test_without_a_bound_nothing_is_counted() -> None:
    class Unasked:
        def connect(self) -> None:
            raise AssertionError

    free = Settings(max_queued=0, max_queued_per_caller=0)
    bounds = QueueBounds(free, Unasked())  # type: ignore[arg-type]

    asyncio.run(bounds.admit(uuid4(), 10_000))
