"""Relays and beats that are killed between two steps, and several of them at once."""

from __future__ import annotations

import httpx2
import pytest

from tests.faults.conftest import Room


@pytest.mark.parametrize("moment", ["relay-after-mark", "relay-after-publish"])
def test_a_relay_that_dies_while_publishing_delays_tasks_and_repeats_none(
    room: Room, client: httpx2.Client, moment: str
) -> None:
    dying = room.relay(kill=moment)
    room.worker()
    tasks = room.submit_many(client, 20)
    room.wait_for_death(dying)
    room.relay()

    statuses = room.settle()

    assert set(statuses.values()) == {"succeeded"}
    assert [room.attempts(task_id) for task_id in tasks] == [1] * 20


def test_two_relays_and_two_beats_repeat_no_task_and_no_slot(room: Room, client: httpx2.Client) -> None:
    for _ in range(2):
        room.relay()
        room.start("beat")
    room.worker(queues="files,maintenance,email,reports")
    tasks = [task_id for _ in range(10) for task_id in room.submit_many(client, 20)]
    scheduled = "SELECT id::text FROM tasks WHERE schedule_id IS NOT NULL"
    room.eventually(lambda: len(room.ask(scheduled)) >= 3)
    for (task_id,) in room.ask(scheduled):
        room.note(task_id)

    statuses = room.settle()

    assert set(statuses.values()) == {"succeeded"}
    assert room.ask("SELECT max(attempt) FROM tasks WHERE id = ANY(%s::uuid[])", (tasks,)) == [(1,)]
    # In one statement, because the beats still run: a minute may begin between two.
    ((slots, of_slots, of_schedules),) = room.ask(
        "SELECT (SELECT count(*) FROM schedule_slots), (SELECT count(DISTINCT task_id) FROM schedule_slots),"
        " (SELECT count(*) FROM tasks WHERE schedule_id IS NOT NULL)"
    )
    assert slots == of_slots == of_schedules >= 3


def test_a_beat_that_dies_between_slot_and_task_has_stored_neither(room: Room, client: httpx2.Client) -> None:
    dying = room.start("beat", kill="beat-after-slot")
    room.wait_for_death(dying)

    assert room.ask("SELECT count(*) FROM schedule_slots") == [(0,)]
    room.start("beat")
    room.eventually(lambda: room.ask("SELECT count(*) FROM schedule_slots")[0][0] >= 3)
    room.settle(0)
