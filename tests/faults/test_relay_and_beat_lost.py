"""Relays and beats that are killed between two steps, and several of them at once."""

from __future__ import annotations

import httpx2
import pytest

from shared.contracts.kind import QUEUES
from tests.conftest import PATIENCE_SECONDS
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
    room.worker(queues=",".join(QUEUES))
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


def test_two_beats_of_which_one_is_killed_submit_each_slot_of_a_schedule_once(
    room: Room, client: httpx2.Client
) -> None:
    beats = [room.start("beat"), room.start("beat")]
    ping = {"kind": "platform.ping", "missed": "run_all"}
    for body in ({"name": "every", "every": 1, **ping}, {"name": "cron", "cron": "* * * * *", **ping}):
        assert client.post("/schedules", json=body).status_code == 201
    runs = "SELECT count(*) FROM schedule_slots slot JOIN schedules ON id = schedule_id WHERE name = 'every'"
    for round_ in range(3):
        seen = room.ask(runs)[0][0]
        room.eventually(lambda before=seen: room.ask(runs)[0][0] > before)
        beats[round_ % 2].kill()
        beats[round_ % 2].wait(PATIENCE_SECONDS)
        beats[round_ % 2] = room.start("beat")
    seen = room.ask(runs)[0][0]
    room.eventually(lambda: room.ask(runs)[0][0] > seen + 1)

    # In one statement, because the beats still run.
    rows = room.ask(
        """SELECT slot.slot, count(*), count(DISTINCT task.id),
            slot.slot - lag(slot.slot) OVER (ORDER BY slot.slot) = interval '1 s'
        FROM schedule_slots slot JOIN schedules ON id = slot.schedule_id LEFT JOIN tasks task ON task.id = slot.task_id
        WHERE name = 'every' GROUP BY slot.slot ORDER BY slot.slot"""
    )
    assert {(slots, tasks) for _, slots, tasks, _ in rows} == {(1, 1)}
    assert [follows for *_, follows in rows[1:]] == [True] * (len(rows) - 1), "a slot was lost"
    assert room.ask(
        "SELECT count(*) FROM tasks WHERE schedule_id IS NOT NULL"
        " AND NOT EXISTS (SELECT FROM schedule_slots slot WHERE slot.task_id = tasks.id)"
    ) == [(0,)]
