"""Rows that are too old to matter are deleted, and no younger ones."""

from __future__ import annotations

from uuid import uuid4

from tests.workers.conftest import Tasks
from tests.workers.handlers.maintenance.conftest import Chores


def test_old_keys_tombstones_slots_and_turns_are_deleted_and_younger_ones_kept(tasks: Tasks, chores: Chores) -> None:
    schedule = uuid4()
    tasks.connection.execute(
        "INSERT INTO schedules (id, name, kind, params, every_seconds) VALUES (%s, 'x', 'a.b', '{}', 60)", (schedule,)
    )
    for age in ("1 hour", "23 hours", "25 hours", "6 days", "8 days", "29 days", "31 days"):
        tasks.connection.execute(
            "INSERT INTO idempotency_keys (owner_id, key, subject_id, status_code, created_at)"
            " VALUES (%s, 'k', %s, 202, now() - %s::interval)",
            (uuid4(), uuid4(), age),
        )
        tasks.connection.execute(
            "INSERT INTO tombstones (id, subject, organization_id, owner_id, purged_at)"
            " VALUES (%s, 'task', %s, %s, now() - %s::interval)",
            (uuid4(), uuid4(), uuid4(), age),
        )
        tasks.connection.execute(
            "INSERT INTO schedule_slots (schedule_id, slot, task_id) VALUES (%s, now() - %s::interval, %s)",
            (schedule, age, uuid4()),
        )
        tasks.connection.execute(
            "INSERT INTO caller_turns (queue, owner_id, last_turn, at) VALUES ('files', %s, 5, now() - %s::interval)",
            (uuid4(), age),
        )
        tasks.connection.execute(
            "INSERT INTO webhook_deliveries (id, organization_id, event_type, url, receiver_id, give_up_at, state, finished_at)"
            " VALUES (gen_random_uuid(), %s, 'ping', 'http://a.example/', %s, now(), 'failed', now() - %s::interval)",
            (uuid4(), uuid4(), age),
        )
        tasks.connection.execute(
            "INSERT INTO slow_receivers (receiver_id, last_try_at) VALUES (%s, now() - %s::interval)", (uuid4(), age)
        )
        tasks.connection.execute(
            "INSERT INTO queue_activity (queue, at, started, ended) VALUES ('files', now() - %s::interval, 1, 1)",
            (age,),
        )

    assert chores.do("maintenance.drop_old_rows") == {
        "idempotency_keys": 5,
        "tombstones": 1,
        "slots": 3,
        "turns": 3,
        "batch_follow_ups": 0,
        "webhook_deliveries": 1,
        "slow_receivers": 1,
        "starts": 0,
        "activity": 6,
        "usage": 0,
    }

    assert (chores.count("idempotency_keys"), chores.count("tombstones"), chores.count("schedule_slots")) == (
        2,
        6,
        4,
    )
