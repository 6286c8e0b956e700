"""A claimer takes as much as there is room for, and keeps nothing from other workers."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any
from uuid import uuid4

import pytest

from shared.queries import hot_tasks
from shared.settings import Settings
from workers.engine import claiming
from workers.engine.claiming import Claimer


class Claims:
    """A claimer, and what it started."""

    def __init__(self, settings: Settings, slots: int) -> None:
        self.started: list[Any] = []
        self.claimer = Claimer(settings, slots, lambda task, request: self.started.append((task.id, request)))
        self.claimer.start()

    def offer(self, ids: list[Any]) -> None:
        for task_id in ids:
            self.claimer.offer(task_id, f"request of {task_id}")


@pytest.fixture
def make_claims(settings: Settings) -> Iterator[Callable[[int], Claims]]:
    made: list[Claims] = []

    def make(slots: int) -> Claims:
        made.append(Claims(settings, slots))
        return made[-1]

    yield make
    for claims in made:
        claims.claimer.stop()


def test_no_more_is_claimed_than_there_are_slots(
    tasks: Any, make_claims: Any, eventually: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What finds no room is given back after half a second, and is wanted no more.
    monkeypatch.setattr(claiming, "PATIENCE_SECONDS", 600.0)
    claims, ids = make_claims(2), tasks.submit(count=5)

    claims.offer(ids)
    eventually(lambda: len(claims.started) == 2)
    time.sleep(0.2)

    assert claims.started == [(task_id, f"request of {task_id}") for task_id in ids[:2]]
    assert tasks.count("running") == 2
    assert not claims.claimer.wants_more()


def test_room_that_is_made_is_filled(tasks: Any, make_claims: Any, eventually: Any) -> None:
    claims, ids = make_claims(1), tasks.submit(count=2)
    claims.offer(ids)
    eventually(lambda: len(claims.started) == 1)

    claims.claimer.release(1.0)

    eventually(lambda: len(claims.started) == 2)


def test_duplicates_cancelled_expired_and_unknown_ids_are_not_started_and_take_no_room(
    tasks: Any, make_claims: Any, eventually: Any
) -> None:
    cancelled, twice, done, expired = tasks.submit(count=3)[:3] + tasks.submit(ttl=1)
    tasks.cancel(cancelled)
    tasks.connection.execute("UPDATE tasks SET expires_at = now() WHERE id = %s", (expired,))
    claims = make_claims(1)
    claims.offer([twice])
    eventually(lambda: len(claims.started) == 1)
    claims.claimer.release(1.0)

    claims.offer([twice, cancelled, expired, uuid4()])
    claims.offer([done])

    eventually(lambda: len(claims.started) == 2)
    assert [task_id for task_id, _ in claims.started] == [twice, done]
    assert tasks.get(twice).attempt == 1
    assert tasks.status(expired) == "queued"


def test_ids_that_find_no_room_soon_are_given_back_for_other_workers(
    tasks: Any, make_claims: Any, eventually: Any
) -> None:
    busy, idle, ids = make_claims(1), make_claims(4), tasks.submit(count=4)
    for task_id in ids:
        tasks.ring(task_id, 0)
    tasks.connection.execute(f"LISTEN {hot_tasks.DUE_CHANNEL}")

    busy.offer(ids)
    eventually(lambda: all(tasks.get(task_id).rung_at is None for task_id in ids[1:]))
    heard = list(tasks.connection.notifies(timeout=1, stop_after=1))
    idle.offer(ids[1:])

    assert heard
    eventually(lambda: len(idle.started) == 3)
    assert len(busy.started) == 1


def test_a_claimer_that_stops_gives_back_what_waits(tasks: Any, make_claims: Any, eventually: Any) -> None:
    claims, ids = make_claims(1), tasks.submit(count=3)
    for task_id in ids:
        tasks.ring(task_id, 0)
    claims.offer(ids)
    eventually(lambda: claims.started)

    claims.claimer.stop()

    assert [tasks.get(task_id).rung_at is None for task_id in ids] == [False, True, True]
    assert not claims.claimer.wants_more()
    claims.offer(tasks.submit(count=1))
    assert tasks.count("running") == 1


def test_fast_tasks_are_claimed_ahead_and_slow_ones_are_not(tasks: Any, make_claims: Any, eventually: Any) -> None:
    claims = make_claims(2)
    for _ in range(100):
        claims.claimer._taken += 1
        claims.claimer.release(0.001)

    claims.offer(tasks.submit(count=50))
    eventually(lambda: len(claims.started) == 50)
    claims.claimer.slow_down()
    claims.offer(tasks.submit(count=1))
    time.sleep(0.2)

    assert len(claims.started) == 50


def test_a_database_that_goes_away_delays_a_claim(tasks: Any, make_claims: Any, eventually: Any) -> None:
    claims, (first, second) = make_claims(2), tasks.submit(count=2)
    claims.offer([first])
    eventually(lambda: claims.started)

    tasks.connection.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'taskmill-worker-claim'"
    )
    claims.offer([second])

    eventually(lambda: len(claims.started) == 2)


def test_whoever_is_told_that_no_more_is_wanted_hears_when_it_is(tasks: Any, make_claims: Any, eventually: Any) -> None:
    claims, told = make_claims(1), threading.Event()
    claims.claimer.on_hungry = told.set
    claims.offer(tasks.submit(count=1))
    eventually(lambda: claims.started)
    assert not claims.claimer.wants_more()
    assert not told.is_set()

    claims.claimer.release(1.0)

    assert told.wait(2)
    assert claims.claimer.wants_more()
