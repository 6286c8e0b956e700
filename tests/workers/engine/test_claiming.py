"""A claimer claims the next tasks of its queues for its free slots, and leaves the others to other workers."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from uuid import UUID

import pytest

from shared.queries import hot_tasks
from shared.settings import Settings
from tests.conftest import Eventually, stays_true
from tests.workers.conftest import Tasks
from workers.engine import claiming
from workers.engine.attempt import ClaimedTask
from workers.engine.claiming import Claimer

ONE, OTHER = UUID(int=1), UUID(int=2)


class Claims:
    """A claimer, and the tasks that it started. With `runs_for_seconds`, each of them ends at once, and reports that time."""

    def __init__(self, settings: Settings, slots: int, queues: list[str]) -> None:
        self.started: list[ClaimedTask] = []
        self.runs_for_seconds: float | None = None
        self.claimer = Claimer(settings, "a worker", queues, slots, self._start)

    def _start(self, task: ClaimedTask) -> None:
        self.started.append(task)
        if self.runs_for_seconds is not None:
            self.claimer.free_slot(self.runs_for_seconds)

    def announce(self, tasks: int, queue: str = "files") -> None:
        self.claimer.announce(queue, tasks)

    def has_started(self, tasks: int) -> bool:
        return len(self.started) == tasks

    @property
    def ids(self) -> list[UUID]:
        return [task.id for task in self.started]


MakeClaims = Callable[..., Claims]


@pytest.fixture
def make_claims(settings: Settings) -> Iterator[MakeClaims]:
    made: list[Claims] = []

    def make(slots: int, queues: list[str] | None = None, *, is_started: bool = True) -> Claims:
        claims = Claims(settings, slots, queues or ["files"])
        made.append(claims)
        if is_started:
            claims.claimer.start()
        return claims

    yield make
    for claims in made:
        claims.claimer.stop()


def test_tasks_are_claimed_by_turn_and_no_more_than_there_are_slots(
    tasks: Tasks, make_claims: MakeClaims, eventually: Eventually, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Announced tasks without a free slot are unmarked after half a second.
    monkeypatch.setattr(claiming, "LONGEST_ANNOUNCED_SECONDS", 600.0)
    claims, ids = make_claims(2), tasks.submit(count=5)
    tasks.publish(ids[:3], turn=7)
    tasks.publish(ids[3:], turn=4)

    claims.announce(5)
    eventually(lambda: claims.has_started(2))

    assert claims.ids == ids[3:]
    assert tasks.count("running") == 2
    assert not claims.claimer.wants_messages()


def test_a_free_slot_takes_the_task_that_is_next_at_that_moment(
    tasks: Tasks, make_claims: MakeClaims, eventually: Eventually
) -> None:
    claims, backlog = make_claims(1), tasks.submit(count=5, owner=ONE)
    tasks.publish(backlog, turn=10)
    claims.announce(5)
    eventually(lambda: claims.has_started(1))
    late = tasks.submit_one(owner=OTHER)
    tasks.publish([late], turn=9)
    claims.announce(1)

    claims.claimer.free_slot(1.0)

    eventually(lambda: claims.has_started(2))
    assert claims.ids == [backlog[0], late]


def test_cancelled_expired_unpublished_and_unknown_kinds_of_tasks_are_not_claimed(
    tasks: Tasks, make_claims: MakeClaims, eventually: Eventually
) -> None:
    cancelled, unknown, published, _ = tasks.submit(count=4)
    (expired,) = tasks.submit(ttl=3600)
    tasks.publish([cancelled, unknown, published, expired])
    tasks.cancel(cancelled)
    tasks.connection.execute("UPDATE tasks SET expires_at = now() WHERE id = %s", (expired,))
    tasks.connection.execute("UPDATE tasks SET kind = 'files.unheard_of' WHERE id = %s", (unknown,))
    claims = make_claims(4)

    claims.announce(4)
    eventually(lambda: claims.has_started(1))
    second = tasks.submit_one()
    tasks.publish([second])
    claims.announce(1)

    eventually(lambda: claims.has_started(2))
    assert claims.ids == [published, second]


def test_announcements_without_a_task_occupy_no_slot(
    tasks: Tasks, make_claims: MakeClaims, eventually: Eventually
) -> None:
    claims = make_claims(1)
    for _ in range(100):
        claims.announce(1000)
    claims.announce(1, queue="a queue of nobody")
    eventually(lambda: claims.claimer.wants_messages())

    tasks.publish([tasks.submit_one()])
    claims.announce(1)

    eventually(lambda: claims.has_started(1))


def test_a_task_whose_message_was_lost_is_found_after_the_next_one(
    tasks: Tasks, make_claims: MakeClaims, eventually: Eventually
) -> None:
    claims = make_claims(4)
    tasks.publish(tasks.submit(count=3))

    claims.announce(1)

    eventually(lambda: claims.has_started(3))


def test_the_queues_of_a_worker_share_its_slots(tasks: Tasks, make_claims: MakeClaims, eventually: Eventually) -> None:
    claims = make_claims(4, ["files", "email"], is_started=False)
    tasks.publish(tasks.submit(count=9))
    tasks.publish(tasks.submit(count=9, params={"queue": "email"}))

    claims.announce(9, "files")
    claims.announce(9, "email")
    claims.claimer.start()
    eventually(lambda: claims.has_started(4))

    assert sorted(task.queue for task in claims.started) == ["email", "email", "files", "files"]


def test_announced_tasks_without_a_free_slot_are_unmarked_for_other_workers(
    tasks: Tasks, make_claims: MakeClaims, eventually: Eventually
) -> None:
    busy, ids = make_claims(1), tasks.submit(count=4)
    tasks.publish(ids, turn=3)
    tasks.connection.execute(f"LISTEN {hot_tasks.DUE_CHANNEL}")

    busy.announce(4)
    eventually(lambda: all(tasks.get(task_id).rung_at is None for task_id in ids[1:]))

    (notice,) = tasks.connection.notifies(timeout=1, stop_after=1)
    assert notice.payload == "files"
    assert tasks.get(ids[1]).turn == 4
    assert busy.ids == ids[:1]


def test_a_claimer_that_stops_unmarks_the_announced_tasks(
    tasks: Tasks, make_claims: MakeClaims, eventually: Eventually
) -> None:
    claims, ids = make_claims(1), tasks.submit(count=3)
    tasks.publish(ids)
    claims.announce(3)
    eventually(lambda: claims.has_started(1))

    claims.claimer.stop()

    assert [tasks.get(task_id).rung_at is None for task_id in ids] == [False, True, True]
    assert not claims.claimer.wants_messages()
    tasks.publish(ids[1:])
    claims.announce(1)
    assert tasks.count("running") == 1


def test_fast_tasks_are_claimed_ahead_and_slow_ones_are_not(
    tasks: Tasks, make_claims: MakeClaims, eventually: Eventually
) -> None:
    claims = make_claims(2)
    claims.runs_for_seconds = 0.001
    tasks.publish(tasks.submit(count=100))
    claims.announce(100)
    eventually(lambda: claims.has_started(100))
    claims.runs_for_seconds = None
    tasks.publish(tasks.submit(count=100))

    claims.announce(50)
    eventually(lambda: len(claims.started) >= 150)
    claims.claimer.slow_down()
    started = len(claims.started)
    claims.announce(10)

    assert stays_true(lambda: claims.has_started(started), 0.2)


def test_a_database_that_goes_away_delays_a_claim(
    tasks: Tasks, make_claims: MakeClaims, eventually: Eventually
) -> None:
    claims, ids = make_claims(2), tasks.submit(count=2)
    tasks.publish(ids[:1])
    claims.announce(1)
    eventually(lambda: claims.has_started(1))

    tasks.connection.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'taskmill-worker-claim'"
    )
    tasks.publish(ids[1:])
    claims.announce(1)

    eventually(lambda: claims.has_started(2))


def test_the_consumer_is_notified_when_messages_are_wanted_again(
    tasks: Tasks, make_claims: MakeClaims, eventually: Eventually
) -> None:
    claims, notified = make_claims(1), threading.Event()
    claims.claimer.on_messages_wanted = notified.set
    tasks.publish([tasks.submit_one()])
    claims.announce(1)
    eventually(lambda: claims.has_started(1))
    assert not claims.claimer.wants_messages()
    assert not notified.is_set()

    claims.claimer.free_slot(1.0)

    assert notified.wait(2)
    assert claims.claimer.wants_messages()
