"""What is paused is not published, and what is not published is not claimed."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from uuid import UUID, uuid4

import psycopg
import pytest

from shared.contracts.kind import QUEUES
from shared.database.connections import connect_hot
from shared.queries import hot_tasks, pauses
from shared.queries.chaos import LIST_STARTED_WHILE_PAUSED
from shared.queries.publishing import MARK_PUBLISHED
from shared.settings import Settings
from tests.conftest import PATIENCE_SECONDS, Eventually
from tests.workers.conftest import Tasks
from workers.relay.relay import list_due_queues

PING, CANARY = "platform.ping", "platform.canary"


class Pauser:
    """Pauses and publishes with the statements of the API and the relay."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.relay = connect_hot(settings, "test-relay")

    def close(self) -> None:
        self.relay.close()

    def pause(self, target: str, name: str) -> None:
        with psycopg.connect(self._settings.database_url) as connection:
            pause(connection, target, name)

    def publish(self) -> set[UUID]:
        return {UUID(row[0]) for row in self.relay.execute(MARK_PUBLISHED, {"queue": "files", "window": 1000})}

    def claim(self, count: int = 10) -> set[UUID]:
        parameters = {
            "queues": ["files"],
            "counts": [count],
            "kinds": [PING, CANARY],
            "claims": list(range(1, count + 1)),
            "lease": 60,
            "worker": "a test",
        }
        return {row[0] for row in self.relay.execute(hot_tasks.CLAIM, parameters)}

    def due_queues(self) -> list[str]:
        return list_due_queues(self.relay)


def pause(connection: psycopg.Connection[tuple[object, ...]], target: str, name: str) -> None:
    """Execute the statements of a pause in the transaction of a connection."""
    queues = [name] if target == "queue" else list(QUEUES)
    connection.execute(pauses.COUNT_AS_PUBLICATION, {"queues": queues})
    connection.execute(pauses.PAUSE, {"target": target, "name": name, "caller_id": uuid4()})
    kind = name if target == "kind" else None
    connection.execute(pauses.UNMARK_PAUSED, {"queues": queues, "kind": kind})


@pytest.fixture
def pauser(settings: Settings) -> Iterator[Pauser]:
    pauser = Pauser(settings)
    yield pauser
    pauser.close()


def _submit(tasks: Tasks, kind: str, owner: UUID, count: int = 1) -> set[UUID]:
    return set(tasks.submit(kind, owner=owner, count=count, params={"queue": "files"} if kind == CANARY else None))


@pytest.mark.parametrize(("target", "name"), [("queue", "files"), ("kind", PING)])
def test_published_tasks_cannot_be_claimed_once_they_are_paused(
    tasks: Tasks, pauser: Pauser, target: str, name: str
) -> None:
    waiting = _submit(tasks, PING, uuid4(), count=5)
    assert pauser.publish() == waiting
    (running,) = pauser.claim(1)

    pauser.pause(target, name)

    assert pauser.claim() == set()
    assert pauser.publish() == set()
    assert pauser.due_queues() == []
    assert tasks.status(running) == "running"
    assert tasks.statuses(list(waiting - {running})) == {"queued"}


def test_another_kind_of_a_paused_kinds_caller_and_queue_goes_on(tasks: Tasks, pauser: Pauser) -> None:
    owner, other = uuid4(), uuid4()
    _submit(tasks, CANARY, owner)
    _submit(tasks, CANARY, other)
    tasks.connection.execute("UPDATE tasks SET kind = 'files.inspect'")
    _submit(tasks, PING, owner)
    pauser.pause("kind", PING)

    published = pauser.publish()

    assert {(tasks.get(task_id).kind, tasks.get(task_id).owner_id) for task_id in published} == {
        ("files.inspect", owner),
        ("files.inspect", other),
    }
    assert pauser.due_queues() == []


def test_canaries_run_in_a_paused_queue(tasks: Tasks, pauser: Pauser) -> None:
    _submit(tasks, PING, uuid4(), count=2)
    canary = _submit(tasks, CANARY, uuid4())
    pauser.pause("queue", "files")

    assert pauser.due_queues() == ["files"]
    assert pauser.publish() == canary
    assert pauser.claim() == canary


def test_a_relay_that_does_not_see_a_pause_yet_publishes_nothing(
    tasks: Tasks, pauser: Pauser, settings: Settings, eventually: Eventually
) -> None:
    _submit(tasks, PING, uuid4(), count=3)
    published: list[set[UUID]] = []
    with psycopg.connect(settings.database_url) as connection:
        pause(connection, "queue", "files")
        publishing = threading.Thread(target=lambda: published.append(pauser.publish()))
        publishing.start()
        eventually(lambda: _waits_for_a_lock(tasks))
    publishing.join(PATIENCE_SECONDS)

    assert published == [set()]
    assert pauser.claim() == set()


def _waits_for_a_lock(tasks: Tasks) -> bool:
    row = tasks.connection.execute("SELECT count(*) AS n FROM pg_locks WHERE NOT granted").fetchone()
    return bool(row.n)


def test_a_resumed_task_keeps_its_turn(tasks: Tasks, pauser: Pauser) -> None:
    (first,) = _submit(tasks, PING, uuid4())
    pauser.publish()
    turn = tasks.get(first).turn
    pauser.pause("queue", "files")

    tasks.connection.execute(pauses.RESUME, {"target": "queue", "name": "files"})

    assert pauser.publish() == {first}
    assert tasks.get(first).turn == turn


def test_chaos_finds_an_attempt_that_started_while_its_queue_was_paused(tasks: Tasks, pauser: Pauser) -> None:
    _submit(tasks, PING, uuid4())
    _submit(tasks, CANARY, uuid4())
    pauser.publish()
    begin = time.time()
    started = pauser.claim()

    parameters = {"queue": "files", "begin": begin, "end": time.time()}
    found = pauser.relay.execute(LIST_STARTED_WHILE_PAUSED, parameters).fetchall()

    assert len(started) == 2
    assert [tasks.get(UUID(task_id)).kind for task_id, _ in found] == [PING]
    assert pauser.relay.execute(LIST_STARTED_WHILE_PAUSED, {**parameters, "end": begin}).fetchall() == []
