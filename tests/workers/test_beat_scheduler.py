"""Beat submits a task for each slot of a schedule once, however many beats run."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import orjson
import pytest
from psycopg import sql
from pydantic import JsonValue
from sqlalchemy import Engine
from structlog.testing import capture_logs

from cli.local_stack.postgres import PostgresServer
from shared.contracts.catalog import list_kinds
from shared.database.connections import make_engine
from shared.database.schema_migrations import migrate
from shared.queries import hot_tasks
from shared.settings import Settings
from shared.tasks.options import TaskOptions
from shared.tasks.submission import PLATFORM_ID, make_task, submission_document
from shared.workflows.submission import SCHEDULED_KIND, StepPlan, dump_plans
from tests.conftest import PATIENCE_SECONDS, Eventually, Parts, wait_until_true
from tests.workers.conftest import Tasks
from workers import beat_scheduler
from workers.beat_scheduler import (
    DATABASE_RETRY_SECONDS,
    PLATFORM_SCHEDULES,
    QueueBounds,
    SlotScheduler,
    ensure_platform_schedules,
    insert_due_tasks,
    look_again_after_clock_was_turned_back,
)
from workers.celery_app import make_celery_app


@pytest.fixture
def engine(settings: Settings) -> Iterator[Engine]:
    engine = make_engine(settings, "test-beat")
    yield engine
    engine.dispose()


def _schedule(tasks: Tasks, *, kind: str = "platform.ping", params: JsonValue = None, **more: object) -> None:
    """Insert a schedule with the given columns; the others have their defaults, as with earlier versions."""
    row = {"id": uuid4(), "name": uuid4().hex, "kind": kind, "params": orjson.dumps(params or {}).decode(), **more}
    columns = sql.SQL(", ").join(map(sql.Identifier, row))
    places = sql.SQL(", ").join(map(sql.Placeholder, row))
    tasks.connection.execute(sql.SQL("INSERT INTO schedules ({}) VALUES ({})").format(columns, places), row)


def _look_again(tasks: Tasks) -> None:
    """Make the schedules due again, as if a minute had passed, and keep the tasks of the earlier slots."""
    tasks.connection.execute("UPDATE schedule_slots SET slot = slot - interval '1 minute'")
    tasks.connection.execute("UPDATE schedules SET next_at = now() - interval '1 second'")


def _made(tasks: Tasks) -> list[Any]:
    return list(tasks.connection.execute("SELECT * FROM tasks WHERE schedule_id IS NOT NULL ORDER BY id").fetchall())


def test_the_platform_has_a_schedule_for_each_kind_that_only_the_clock_submits() -> None:
    kinds = list_kinds()
    own = {name for name in kinds if not kinds[name].public}

    # These are submitted by a request, and by the end of a task.
    assert {kind for kind, _ in PLATFORM_SCHEDULES.values()} == own - {
        "maintenance.bulk",
        "webhooks.deliver",
        "email.account",
    }


def test_the_schedules_of_the_platform_are_created_once_and_kept_up_to_date(tasks: Tasks, engine: Engine) -> None:
    ensure_platform_schedules(engine)
    tasks.connection.execute("UPDATE schedules SET every_seconds = 5, enabled = false WHERE name = 'purge'")

    ensure_platform_schedules(engine)

    rows = tasks.connection.execute("SELECT name, kind, every_seconds, enabled FROM schedules").fetchall()
    assert {row.name: (row.kind, row.every_seconds) for row in rows} == PLATFORM_SCHEDULES
    # Whether a schedule is enabled is left to the operator.
    assert {row.name: row.enabled for row in rows} == {name: name != "purge" for name in PLATFORM_SCHEDULES}


def test_each_slot_gets_one_task_when_it_begins(tasks: Tasks, engine: Engine) -> None:
    _schedule(tasks, every_seconds=1, params={"echo": "tick"})

    inserted: list[int] = []

    def has_inserted_three() -> bool:
        inserted.append(insert_due_tasks(engine))
        return sum(inserted) >= 3

    began = time.monotonic()
    wait_until_true(has_inserted_three)
    took = time.monotonic() - began
    done = sum(inserted)

    made = _made(tasks)
    assert len(made) == done
    # At most one for each second that has begun.
    assert done <= took + 2
    slots = tasks.connection.execute("SELECT slot, task_id FROM schedule_slots ORDER BY slot").fetchall()
    assert [slot.task_id for slot in slots] == [row.id for row in made]
    assert all(slot.slot.microsecond == 0 for slot in slots)
    assert {row.owner_id for row in made} == {PLATFORM_ID}
    assert tasks.get(made[0].id).params["echo"] == "tick"
    assert tasks.history(made[0].id) == ["queued"]


def test_several_beats_at_once_submit_each_slot_once(tasks: Tasks, settings: Settings) -> None:
    for _ in range(3):
        _schedule(tasks, every_seconds=1)
    deadline = time.monotonic() + PATIENCE_SECONDS
    inserted: list[int] = []

    def beat() -> None:
        engine = make_engine(settings, "test-beat")
        while sum(inserted) < 9 and time.monotonic() < deadline:
            inserted.append(insert_due_tasks(engine))
        engine.dispose()

    beats = [threading.Thread(target=beat) for _ in range(3)]
    for thread in beats:
        thread.start()
    for thread in beats:
        thread.join(PATIENCE_SECONDS)

    slots = tasks.connection.execute(
        "SELECT count(*) AS all, count(DISTINCT (schedule_id, slot)) AS distinct FROM schedule_slots"
    ).fetchone()
    assert sum(inserted) == len(_made(tasks)) == slots.all == slots.distinct
    assert slots.all >= 9


def test_missed_slots_get_no_task_by_default(tasks: Tasks, engine: Engine) -> None:
    _schedule(tasks, every_seconds=3600)
    insert_due_tasks(engine)
    tasks.connection.execute("UPDATE schedule_slots SET slot = slot - interval '10 hours'")
    tasks.connection.execute("UPDATE schedules SET next_at = now() - interval '9 hours'")

    assert insert_due_tasks(engine) == 1


def test_a_slot_and_its_task_are_stored_together_or_not_at_all(
    tasks: Tasks, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    _schedule(tasks, every_seconds=3600)
    monkeypatch.setattr(hot_tasks, "SUBMIT", "SELECT 1/0")
    with pytest.raises(Exception, match="division by zero"):
        insert_due_tasks(engine)
    monkeypatch.undo()

    assert tasks.connection.execute("SELECT count(*) AS n FROM schedule_slots").fetchone().n == 0
    assert insert_due_tasks(engine) == 1


def test_a_schedule_that_cannot_be_read_does_not_delay_the_others(tasks: Tasks, engine: Engine) -> None:
    _schedule(tasks, every_seconds=3600, params={"unheard_of": 1})
    _schedule(tasks, every_seconds=3600, kind="files.unheard_of")
    _schedule(tasks, every_seconds=3600, enabled=False)
    _schedule(tasks, every_seconds=3600)

    assert insert_due_tasks(engine) == 1


def test_a_slot_that_gets_no_task_is_logged_once_with_the_reason(tasks: Tasks, engine: Engine) -> None:
    _schedule(tasks, every_seconds=86_400 * 30, kind="platform.gone")
    _schedule(tasks, every_seconds=86_400 * 30, params={"sleep_ms": "long"})

    with capture_logs() as logs:
        assert [insert_due_tasks(engine) for _ in range(3)] == [0, 0, 0]

    assert sorted(line["type"] for line in logs) == ["/problems/unknown-kind", "/problems/unreadable-params"]
    rows = tasks.connection.execute("SELECT last_error->>'type' AS type FROM schedules ORDER BY 1").fetchall()
    assert [row.type for row in rows] == ["/problems/unknown-kind", "/problems/unreadable-params"]


def test_a_time_zone_that_beat_does_not_know_fails_its_schedule_alone(tasks: Tasks, engine: Engine) -> None:
    _schedule(tasks, name="far", cron="0 9 * * *", timezone="Mars/Olympus_Mons")
    _schedule(tasks, name="near", every_seconds=3600)

    assert [insert_due_tasks(engine) for _ in range(2)] == [1, 0]

    (row,) = tasks.connection.execute(
        "SELECT last_error, next_at > now() + interval '30 s' AS is_tried_later FROM schedules WHERE name = 'far'"
    ).fetchall()
    assert row.last_error["type"] == "/problems/unknown-time-zone"
    assert "Mars/Olympus_Mons" in row.last_error["detail"]
    assert row.is_tried_later


def test_a_schedule_whose_file_is_gone_does_not_delay_the_others(tasks: Tasks, engine: Engine) -> None:
    _schedule(tasks, every_seconds=3600, kind="files.inspect", params={"file_id": str(uuid4())})
    _schedule(tasks, every_seconds=3600)

    assert insert_due_tasks(engine) == 1
    row = tasks.connection.execute("SELECT last_error FROM schedules WHERE kind = 'files.inspect'").fetchone()
    assert row.last_error["type"] == "/problems/input-gone"


@pytest.mark.parametrize("bounds", [QueueBounds(max_queued_per_caller=2), QueueBounds(max_queued=3)])
def test_a_slot_gets_no_task_while_too_many_are_queued(tasks: Tasks, engine: Engine, bounds: QueueBounds) -> None:
    owner = uuid4()
    for _ in range(3):
        _schedule(tasks, every_seconds=3600, owner_id=owner)
    _schedule(tasks, every_seconds=3600, next_at="1969-01-01")

    inserted = insert_due_tasks(engine, bounds)

    assert inserted == 3
    assert {row.owner_id for row in _made(tasks)} == {owner, PLATFORM_ID}
    errors = tasks.connection.execute("SELECT last_error->>'type' AS type FROM schedules ORDER BY 1").fetchall()
    assert [row.type for row in errors] == ["/problems/queue-full", None, None, None]


def test_a_turn_with_many_due_slots_ends_in_time(tasks: Tasks, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(beat_scheduler, "DUE_TOGETHER", 1)
    monkeypatch.setattr(beat_scheduler, "LONGEST_TURN_SECONDS", 0.0)
    _schedule(tasks, every_seconds=3600)
    _schedule(tasks, every_seconds=3600)

    assert [insert_due_tasks(engine) for _ in range(3)] == [1, 1, 0]


def test_a_cron_schedule_runs_at_its_next_time_and_belongs_to_its_owner(tasks: Tasks, engine: Engine) -> None:
    owner, organization = uuid4(), uuid4()
    _schedule(tasks, cron="* * * * *", owner_id=owner, organization_id=organization, options='{"tags": ["nightly"]}')

    inserted = insert_due_tasks(engine)
    again = insert_due_tasks(engine)

    (row,) = _made(tasks)
    assert (inserted, again) == (1, 0)
    assert (row.owner_id, row.organization_id, row.tags) == (owner, organization, ["nightly"])
    schedule = tasks.connection.execute("SELECT next_at, now() AS now FROM schedules").fetchone()
    assert 0 < (schedule.next_at - schedule.now).total_seconds() <= 60
    assert schedule.next_at.second == 0


@pytest.mark.parametrize(("missed", "expected"), [("skip", 0), ("run_once", 1), ("run_all", 5)])
def test_missed_slots_get_the_tasks_that_the_schedule_asks_for(
    tasks: Tasks, engine: Engine, missed: str, expected: int
) -> None:
    _schedule(tasks, every_seconds=3600, missed=missed)
    # The latest slot began more than a minute ago, and the four before it were missed too.
    tasks.connection.execute(
        "UPDATE schedules SET starts_at = now() - interval '30 minutes' - interval '10 hours',"
        " next_at = now() - interval '30 minutes' - interval '4 hours'"
    )

    assert insert_due_tasks(engine) == expected


def test_a_schedule_may_skip_a_slot_while_the_task_of_an_earlier_one_is_not_done(tasks: Tasks, engine: Engine) -> None:
    _schedule(tasks, every_seconds=1, overlap="skip")
    assert insert_due_tasks(engine) == 1
    _look_again(tasks)

    while_it_waits = insert_due_tasks(engine)
    tasks.connection.execute(
        "UPDATE tasks SET status = 'cancelled', version = version + 1, finished_at = now(), purge_at = now()"
    )
    _look_again(tasks)
    afterwards = insert_due_tasks(engine)

    assert (while_it_waits, afterwards) == (0, 1)


def test_a_schedule_without_overlap_makes_up_for_one_missed_slot_at_once(tasks: Tasks, engine: Engine) -> None:
    _schedule(tasks, every_seconds=3600, missed="run_all", overlap="skip")
    tasks.connection.execute("UPDATE schedules SET next_at = now() - interval '5 hours'")

    assert insert_due_tasks(engine) == 1


def test_a_slot_of_a_workflow_gets_one_and_none_while_it_runs_if_overlap_is_skipped(
    tasks: Tasks, engine: Engine
) -> None:
    kind = list_kinds()["platform.ping"]
    (submission,) = orjson.loads(
        submission_document([make_task("platform.ping", kind, b"{}", "files", TaskOptions(), PLATFORM_ID, PLATFORM_ID)])
    )
    submission.pop("id")
    plans = [StepPlan("a", 0, 0, [], "cancel", submission), StepPlan("b", 1, 1, ["a"], "cancel", submission)]
    workflow = {"definition": {"steps": []}, "plans": dump_plans(plans)}
    columns = {"every_seconds": 60, "overlap": "skip", "jitter_seconds": 3600}
    _schedule(tasks, kind=SCHEDULED_KIND, workflow=orjson.dumps(workflow).decode(), **columns)

    assert insert_due_tasks(engine) == 1
    _look_again(tasks)
    assert insert_due_tasks(engine) == 0

    rows = tasks.connection.execute("SELECT workflow_step, status, run_at FROM tasks ORDER BY workflow_step").fetchall()
    assert [(row.workflow_step, row.status) for row in rows] == [("a", "scheduled"), ("b", "scheduled")]
    assert rows[0].run_at is not None and rows[1].run_at is None


def test_jitter_delays_the_start_of_a_task_within_its_bound(tasks: Tasks, engine: Engine) -> None:
    _schedule(tasks, every_seconds=3600, jitter_seconds=600)
    insert_due_tasks(engine)

    (row,) = _made(tasks)
    slot = tasks.connection.execute("SELECT slot FROM schedule_slots").fetchone().slot
    assert row.status == "scheduled"
    assert 0 <= (row.run_at - slot).total_seconds() < 600


def test_the_ttl_of_a_task_counts_from_its_start_after_jitter(tasks: Tasks, engine: Engine) -> None:
    _schedule(tasks, every_seconds=3600, jitter_seconds=80_000, options='{"ttl": 60}')
    insert_due_tasks(engine)

    (row,) = _made(tasks)
    assert row.expires_at - row.run_at >= timedelta(seconds=60)


def test_a_clock_that_was_turned_back_stops_no_schedule_and_repeats_no_slot(tasks: Tasks, engine: Engine) -> None:
    _schedule(tasks, every_seconds=3600)
    assert insert_due_tasks(engine) == 1
    # As if the clock had been a year ahead when the next slot was computed, and had been corrected since.
    tasks.connection.execute(
        "UPDATE schedules SET next_at = now() + interval '1 year', planned_at = now() + interval '1 year'"
    )

    look_again_after_clock_was_turned_back(engine)
    repeated = insert_due_tasks(engine)

    row = tasks.connection.execute("SELECT next_at - now() AS ahead FROM schedules").fetchone()
    assert repeated == 0
    assert 0 < row.ahead.total_seconds() <= 3600


def test_the_schedules_of_a_disabled_organization_wait_until_it_is_enabled(tasks: Tasks, engine: Engine) -> None:
    organization_id = uuid4()
    tasks.connection.execute(
        "INSERT INTO organizations (id, name, disabled_at) VALUES (%s, 'closed', now())", [organization_id]
    )
    _schedule(tasks, every_seconds=3600, organization_id=organization_id)
    assert insert_due_tasks(engine) == 0

    tasks.connection.execute("UPDATE organizations SET disabled_at = NULL")

    assert insert_due_tasks(engine) == 1


def test_a_schedule_that_has_ended_is_not_looked_at_again(tasks: Tasks, engine: Engine) -> None:
    _schedule(tasks, every_seconds=3600, ends_at="now")
    insert_due_tasks(engine)

    assert tasks.connection.execute("SELECT next_at FROM schedules").fetchone().next_at is None


def test_a_thousand_schedules_that_are_due_at_once_each_get_one_task(
    tasks: Tasks, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(beat_scheduler, "LONGEST_TURN_SECONDS", PATIENCE_SECONDS)
    tasks.connection.execute(
        "INSERT INTO schedules (id, organization_id, name, kind, params, cron, timezone, next_at)"
        " SELECT gen_random_uuid(), gen_random_uuid(), 'minutely', 'platform.ping', '{}', '* * * * *',"
        " (ARRAY['Europe/Berlin', 'Asia/Beirut', 'UTC'])[number % 3 + 1], now() - interval '61 seconds'"
        " FROM generate_series(1, 1000) AS number"
    )

    # On a busy machine the next minute begins before the last schedule has its task.
    assert insert_due_tasks(engine) >= 1000
    assert len({row.schedule_id for row in _made(tasks)}) == 1000


def test_the_ttl_of_a_schedule_limits_the_wait_of_its_tasks(tasks: Tasks, engine: Engine) -> None:
    _schedule(tasks, every_seconds=3600, options='{"ttl": 3600}')
    insert_due_tasks(engine)

    (row,) = _made(tasks)
    assert (row.expires_at - row.created_at).total_seconds() == 3600


def test_a_beat_without_a_database_tries_again_later(settings: Settings) -> None:
    class Away(SlotScheduler):
        engine = make_engine(
            settings.model_copy(update={"database_url": "postgresql://nobody@127.0.0.1:1/nothing"}), "test-beat"
        )

    assert Away(make_celery_app(settings), lazy=True).tick() == DATABASE_RETRY_SECONDS


def test_two_beats_go_on_after_a_restart_of_the_database(
    parts: Parts, tmp_path: Path, connect_tasks: type[Tasks], eventually: Eventually
) -> None:
    with PostgresServer(tmp_path / "own-postgres", fast=True) as server:
        parts.settings = parts.settings.model_copy(update={"database_url": server.url})
        migrate(parts.settings)
        tasks = connect_tasks(parts.settings)
        _schedule(tasks, every_seconds=1)
        beats = [parts.start("beat"), parts.start("beat")]
        eventually(lambda: len(_made(tasks)) > 2)
        tasks.connection.close()

        server.kill()
        server.start()

        tasks = connect_tasks(parts.settings)
        before = len(_made(tasks))
        eventually(lambda: len(_made(tasks)) > before + 1)
        assert all(beat.poll() is None for beat in beats)
        # In one statement, because the beats still run: a slot may begin between two.
        found = tasks.connection.execute(
            "SELECT (SELECT count(*) FROM schedule_slots) AS slots,"
            " (SELECT count(*) FROM tasks WHERE schedule_id IS NOT NULL) AS made"
        ).fetchone()
        assert found.slots == found.made
        age = tasks.connection.execute("SELECT now() - at AS age FROM signs_of_life WHERE part = 'beat'").fetchone().age
        assert age.total_seconds() < 30
        tasks.connection.close()
        started = time.monotonic()
        for beat in beats:
            beat.terminate()
        codes = [beat.wait(timeout=60) for beat in beats]

    assert codes == [0, 0], parts.logs()[-2000:]
    assert time.monotonic() - started < 30
