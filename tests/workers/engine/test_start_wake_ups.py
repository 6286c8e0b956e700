"""Wake-ups of claimed tasks: which tasks are named, and by how many messages."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from uuid import UUID, uuid4

import pytest

from tests.conftest import Eventually
from workers.engine import start_wake_ups
from workers.engine.start_wake_ups import StartWakeUps


class Sent:
    """Wake-ups that send to a list, and what they are told to be unfinished."""

    def __init__(self) -> None:
        self.unfinished: set[UUID] = set()
        self.messages: list[set[UUID]] = []
        self.wake_ups = StartWakeUps(lambda ids: self.messages.append(set(ids)), lambda: self.unfinished)

    def claim(self, count: int) -> list[UUID]:
        ids = [uuid4() for _ in range(count)]
        for task_id in ids:
            self.wake_ups.send_soon(task_id)
        return ids


MakeSent = Callable[[], Sent]


@pytest.fixture
def make_sent() -> Iterator[MakeSent]:
    made: list[Sent] = []

    def make() -> Sent:
        made.append(Sent())
        return made[-1]

    yield make
    for sent in made:
        sent.wake_ups.stop()


def test_the_unfinished_tasks_of_several_claims_are_named_by_one_message(
    make_sent: MakeSent, eventually: Eventually
) -> None:
    sent = make_sent()
    first, ended, last = (*sent.claim(2), *sent.claim(1))
    sent.unfinished = {first, last, uuid4()}

    sent.wake_ups.start()

    eventually(lambda: sent.messages)
    assert sent.messages == [{first, last}]
    assert ended not in sent.messages[0]


def test_tasks_that_have_ended_meanwhile_need_no_message(make_sent: MakeSent, eventually: Eventually) -> None:
    sent = make_sent()
    sent.wake_ups.start()
    sent.claim(50)
    running = uuid4()
    sent.unfinished = {running}

    sent.wake_ups.send_soon(running)

    eventually(lambda: sent.messages)
    assert sent.messages == [{running}]


def test_a_stop_waits_for_no_message(make_sent: MakeSent, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(start_wake_ups, "GATHER_SECONDS", 600.0)
    sent = make_sent()
    sent.wake_ups.start()
    sent.unfinished = set(sent.claim(1))

    sent.wake_ups.stop()

    assert sent.messages == []
