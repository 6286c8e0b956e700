"""What the relay rings, in which order, and what it does when the broker or another relay is gone."""

from __future__ import annotations

import base64
import json
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
import redis

from cli.local_stack.broker import BrokerServer
from shared.contracts.catalog import list_kinds
from shared.database.connections import connect_hot
from shared.errors import ConfigurationError
from shared.queries import hot_tasks
from shared.queries import relay as relay_queries
from shared.settings import Settings
from shared.tasks.options import TaskOptions
from shared.tasks.submission import make_task, submission_document
from tests.conftest import PATIENCE_SECONDS
from workers.celery_app import make_celery_app
from workers.relay import relay as relay_module
from workers.relay.doorbell import MARKER_KEY, Doorbell
from workers.relay.relay import SWEEPER_LOCK, Relay


def _uuid(number: int) -> UUID:
    return UUID(int=number)


def _rung(settings: Settings, queue: str = "files") -> list[UUID]:
    """The ids that lie in the broker, in the order in which they will be received."""
    with redis.Redis.from_url(settings.broker_url) as client:
        messages: Any = client.lrange(queue, 0, -1)
    found = []
    for message in reversed(messages):
        headers = json.loads(message)["headers"]
        found += [UUID(task_id) for task_id in headers["ids"]]
    return found


class RunningRelay:
    """A relay in this process: its loops can be stepped, or run."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.relay = Relay(settings)
        self.connection = connect_hot(settings, "test-relay")
        self._thread: threading.Thread | None = None

    def release(self, queue: str = "files") -> int:
        return self.relay._release_queue(self.connection, queue)

    def do_chores(self) -> None:
        self.relay._do_chores_once(self.connection)

    def start(self) -> None:
        self._thread = threading.Thread(target=self.relay.run, daemon=True)
        self._thread.start()
        # Until it has left its mark, a relay takes the broker for one that has forgotten, and rings everything once more.
        deadline = time.monotonic() + PATIENCE_SECONDS
        with redis.Redis.from_url(self.settings.broker_url) as client:
            while not client.exists(MARKER_KEY):
                assert time.monotonic() < deadline, "the relay left no mark"
                time.sleep(0.02)

    def stop(self) -> None:
        self.relay.stop()
        if self._thread:
            self._thread.join(timeout=PATIENCE_SECONDS)
            assert not self._thread.is_alive(), "the relay did not stop"
        self.relay._doorbell.close()
        self.connection.close()


@pytest.fixture
def make_relay(settings: Settings) -> Iterator[Callable[..., RunningRelay]]:
    made: list[RunningRelay] = []

    def make(**changes: Any) -> RunningRelay:
        made.append(RunningRelay(settings.model_copy(update=changes)))
        return made[-1]

    yield make
    for relay in made:
        relay.stop()


@pytest.fixture
def own_broker(tmp_path: Path) -> Iterator[BrokerServer]:
    """A broker that the test may stop."""
    with BrokerServer(tmp_path / "own-broker") as server:
        yield server


def test_callers_are_released_in_turn_and_one_callers_tasks_by_priority_then_age(
    tasks: Any, make_relay: Any, settings: Settings
) -> None:
    many, few = _uuid(1), _uuid(2)
    low, high = tasks.submit(owner=many, count=3), tasks.submit(owner=many, priority=9, count=2)
    others = tasks.submit(owner=few, count=2)

    assert make_relay().release() == 7

    rung = _rung(settings)
    assert [task_id for task_id in rung if task_id not in others] == sorted(high) + sorted(low)
    assert {rung[0], rung[1]} == {sorted(high)[0], sorted(others)[0]}
    assert {rung[2], rung[3]} == {sorted(high)[1], sorted(others)[1]}


def test_where_there_is_room_for_one_it_is_not_always_the_same_callers(tasks: Any, make_relay: Any, bench: Any) -> None:
    for number in (1, 2, 3):
        tasks.submit(owner=_uuid(number), count=4)
    relay = make_relay(window=1)
    owners = []

    for _ in range(9):
        assert relay.release() == 1
        row = tasks.connection.execute("SELECT id, owner_id FROM tasks WHERE rung_at IS NOT NULL").fetchone()
        owners.append(row.owner_id.int)
        bench.claim(row.id)
        tasks.connection.execute("UPDATE tasks SET rung_at = NULL, named_claim = claim WHERE id = %s", (row.id,))

    assert owners == [1, 2, 3] * 3


def test_no_more_than_a_window_is_published_and_not_claimed(
    tasks: Any, bench: Any, make_relay: Any, settings: Settings
) -> None:
    tasks.submit(count=10)
    relay = make_relay(window=4)

    assert [relay.release(), relay.release()] == [4, 0]
    cancelled, claimed, *_ = _rung(settings)
    tasks.cancel(cancelled)
    bench.claim(claimed)

    assert [relay.release(), relay.release()] == [2, 0]


def test_other_queues_are_not_held_up_by_a_full_one(
    tasks: Any, make_relay: Any, settings: Settings, eventually: Any
) -> None:
    tasks.submit(count=5)
    other = tasks.submit_one(params={"queue": "reports"})
    make_relay(window=2).start()

    eventually(lambda: set(_rung(settings, "reports")) == {other})
    eventually(lambda: len(set(_rung(settings))) == 2)


def test_a_submission_tells_the_relay_its_queues(tasks: Any) -> None:
    tasks.connection.execute(f"LISTEN {hot_tasks.DUE_CHANNEL}")

    tasks.submit_one(params={"queue": "reports"})
    (notice,) = tasks.connection.notifies(timeout=PATIENCE_SECONDS, stop_after=1)

    assert notice.payload == "reports"


def test_tasks_of_two_queues_name_both(tasks: Any, settings: Settings) -> None:
    new = [
        make_task("platform.ping", list_kinds()["platform.ping"], b"{}", queue, TaskOptions(), _uuid(1), _uuid(1))
        for queue in ("reports", "email", "reports")
    ]
    tasks.connection.execute(f"LISTEN {hot_tasks.DUE_CHANNEL}")

    tasks.connection.execute(hot_tasks.SUBMIT, {"document": submission_document(new)})
    (notice,) = tasks.connection.notifies(timeout=PATIENCE_SECONDS, stop_after=1)

    assert notice.payload == "email,reports"


@pytest.mark.parametrize("payload", ["email", "no-queue,of,ours", ""])
def test_what_a_notice_does_not_name_is_rung_all_the_same(
    tasks: Any, make_relay: Any, settings: Settings, eventually: Any, payload: str
) -> None:
    make_relay().start()
    task_id = tasks.submit_one()
    eventually(lambda: _rung(settings) == [task_id])

    with tasks.connection.transaction():
        tasks.connection.execute("UPDATE tasks SET rung_at = NULL WHERE id = %s", (task_id,))
        tasks.connection.execute("SELECT pg_notify(%s, %s)", (hot_tasks.DUE_CHANNEL, payload))

    eventually(lambda: _rung(settings) == [task_id, task_id])


def test_a_queue_that_a_notice_names_is_not_looked_for(
    tasks: Any, make_relay: Any, eventually: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    running = make_relay()
    list_due, ring = relay_module._list_due, running.relay._doorbell.ring
    monkeypatch.setattr(relay_module, "_list_due", lambda connection: done.append("list") or list_due(connection))
    monkeypatch.setattr(running.relay._doorbell, "ring", lambda *due: done.append("ring") or ring(*due))
    running.start()

    firsts = []
    # Each second a relay looks without having heard anything, which may come between.
    for _ in range(5):
        done.clear()
        tasks.submit_one()
        eventually(lambda: "ring" in done)
        eventually(lambda: done[-1] == "list")
        firsts.append(done[0])

    assert "ring" in firsts


def test_notices_are_heard_while_the_window_is_full(tasks: Any, make_relay: Any, eventually: Any) -> None:
    tasks.submit(count=5)
    make_relay(window=1).start()

    # More than fits between the database and one who does not read.
    tasks.connection.execute(
        "SELECT pg_notify(%s, repeat('x', 100) || n) FROM generate_series(1, 100000) AS n", (hot_tasks.DUE_CHANNEL,)
    )

    def waits_for() -> list[str]:
        rows = tasks.connection.execute(
            "SELECT wait_event FROM pg_stat_activity WHERE application_name = 'taskmill-relay-listen'"
            " AND datname = current_database()"
        )
        return [row.wait_event for row in rows]

    def has_nothing_left_to_say() -> bool:
        """Whether the server waits for the relay at every look for a second, and not once for what it sends to be read."""
        until = time.monotonic() + 1
        while time.monotonic() < until:
            if waits_for() != ["ClientRead"]:
                return False
            time.sleep(0.02)
        return True

    eventually(has_nothing_left_to_say)


def test_only_kinds_that_are_short_share_a_message(tasks: Any, make_relay: Any, settings: Settings) -> None:
    tasks.submit(count=100)
    relay = make_relay()
    relay.release()
    relay.relay._doorbell.ring("email", [(str(uuid4()), "email.send") for _ in range(100)])

    with redis.Redis.from_url(settings.broker_url) as client:
        assert 2 <= int(client.llen("files")) < 100  # type: ignore[arg-type]
        assert client.llen("email") == 100
    assert len(_rung(settings)) == 100


def test_a_message_bears_ids_and_no_data(tasks: Any, make_relay: Any, settings: Settings) -> None:
    tasks.submit(params={"echo": "a secret"}, tags=["a tag"], metadata={"a": "word"})
    make_relay().release()

    with redis.Redis.from_url(settings.broker_url) as client:
        (message,) = client.lrange("files", 0, -1)  # type: ignore[misc]
    assert b"secret" not in message
    assert b"a tag" not in message
    body = base64.b64decode(json.loads(message)["body"])
    assert json.loads(body)[:2] == [[], {}]


def test_what_a_broken_broker_does_not_take_is_rung_when_it_is_back(
    tasks: Any, make_relay: Any, own_broker: BrokerServer, eventually: Any
) -> None:
    relay = make_relay(broker_url=own_broker.url)
    relay.start()
    own_broker.kill()
    ids = tasks.submit(count=5)
    time.sleep(1.5)
    assert all(tasks.get(task_id).status == "queued" for task_id in ids)

    own_broker.start()

    eventually(lambda: set(_rung(relay.settings)) >= set(ids))
    eventually(lambda: all(tasks.get(task_id).rung_at is not None for task_id in ids))


def test_rows_are_not_marked_again_and_again_for_a_broker_that_stays_away(
    tasks: Any, make_relay: Any, own_broker: BrokerServer
) -> None:
    relay = make_relay(broker_url=own_broker.url)
    own_broker.kill()
    task_id = tasks.submit_one()
    assert relay.release() == 0

    def version_of_the_row() -> Any:
        return tasks.connection.execute("SELECT rung_at, ctid, xmin FROM tasks WHERE id = %s", (task_id,)).fetchone()

    before = version_of_the_row()
    assert relay.release() == 0
    assert version_of_the_row() == before
    own_broker.start()
    assert relay.release() == 1


def test_a_wiped_broker_is_filled_again_at_once(
    tasks: Any, make_relay: Any, settings: Settings, eventually: Any
) -> None:
    make_relay(rering_seconds=600).start()
    ids = tasks.submit(count=5)
    eventually(lambda: len(_rung(settings)) == 5)

    with redis.Redis.from_url(settings.broker_url) as client:
        client.flushall()

    eventually(lambda: sorted(_rung(settings)) == sorted(ids))


def test_a_broker_that_comes_back_without_its_file_is_filled_again(
    tasks: Any, make_relay: Any, own_broker: BrokerServer, eventually: Any
) -> None:
    relay = make_relay(broker_url=own_broker.url, rering_seconds=600)
    relay.start()
    ids = tasks.submit(count=5)
    eventually(lambda: len(_rung(relay.settings)) == 5)

    own_broker.kill()
    for path in (own_broker.directory / "data").rglob("*"):
        if path.is_file():
            path.unlink()
    own_broker.start()

    eventually(lambda: sorted(_rung(relay.settings)) == sorted(ids))


def test_a_frozen_broker_does_not_keep_lost_leases_from_being_taken_back(
    tasks: Any, bench: Any, make_relay: Any, own_broker: BrokerServer, eventually: Any
) -> None:
    relay = make_relay(broker_url=own_broker.url)
    bench.claim(*tasks.submit(count=1))
    relay.start()
    eventually(lambda: tasks.connection.execute("SELECT part FROM signs_of_life WHERE part = 'sweeper'").fetchone())
    assert own_broker.pid
    subprocess.run(["kill", "-STOP", str(own_broker.pid)], check=True)
    try:
        waiting = tasks.submit_one()
        # Three leases, and more on a busy machine; far less than what the broker would be waited for again and again.
        eventually(lambda: tasks.count("running") == 0, 15)
        assert tasks.status(waiting) == "queued"
    finally:
        subprocess.run(["kill", "-CONT", str(own_broker.pid)], check=True)
    eventually(lambda: waiting in _rung(relay.settings))


def test_two_relays_ring_each_task_once(tasks: Any, make_relay: Any, settings: Settings, eventually: Any) -> None:
    # Nobody claims: on a busy machine, a task would else be rung again before the last is rung.
    relays = [make_relay(rering_seconds=600), make_relay(rering_seconds=600)]
    for relay in relays:
        relay.start()

    ids = [task_id for number in range(10) for task_id in tasks.submit(count=20, owner=_uuid(number + 1))]

    eventually(lambda: len(_rung(settings)) >= 200)
    time.sleep(0.5)
    assert sorted(_rung(settings)) == sorted(ids)


def _lock_holders(tasks: Any) -> list[int]:
    rows = tasks.connection.execute(
        "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND granted AND ((classid::bigint << 32) | objid::bigint) = %s"
        " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())",
        (SWEEPER_LOCK,),
    )
    return [row.pid for row in rows]


def test_one_relay_does_the_chores_and_another_takes_over_from_a_killed_one(
    tasks: Any, bench: Any, parts: Any, make_relay: Any, eventually: Any
) -> None:
    first = parts.start("relay")
    eventually(lambda: _lock_holders(tasks))
    second = make_relay()
    second.start()
    time.sleep(1)
    (holder,) = _lock_holders(tasks)

    first.send_signal(signal.SIGKILL)
    first.wait()
    bench.claim(*tasks.submit(count=1))

    eventually(lambda: _lock_holders(tasks) not in ([], [holder]))
    eventually(lambda: tasks.count("running") == 0)


def test_a_frozen_relay_that_holds_the_lock_does_not_stop_the_chores(
    tasks: Any, bench: Any, parts: Any, make_relay: Any, eventually: Any
) -> None:
    frozen = parts.start("relay")
    eventually(lambda: _lock_holders(tasks))
    make_relay().start()

    frozen.send_signal(signal.SIGSTOP)
    try:
        bench.claim(*tasks.submit(count=1))
        eventually(lambda: tasks.count("running") == 0)
    finally:
        frozen.send_signal(signal.SIGCONT)


@pytest.mark.parametrize("options", [{"delay": 3600}, {"run_at": "2026-01-01T00:00:00Z"}])
def test_a_scheduled_task_is_queued_when_it_is_due_and_not_before(
    tasks: Any, make_relay: Any, options: dict[str, Any]
) -> None:
    relay, task_id = make_relay(), tasks.submit_one(**options)
    assert tasks.status(task_id) == "scheduled"

    if "delay" in options:
        relay.do_chores()
        row = tasks.get(task_id)
        assert (row.status, (row.run_at - row.created_at).total_seconds()) == ("scheduled", 3600)
        tasks.connection.execute("UPDATE tasks SET run_at = now() WHERE id = %s", (task_id,))
    relay.do_chores()

    assert tasks.history(task_id) == ["scheduled", "queued"]


def test_the_next_attempt_is_queued_when_it_is_due(tasks: Any, bench: Any, make_relay: Any) -> None:
    relay, (attempt,) = make_relay(), bench.claim(tasks.submit_one())
    bench.finisher.write(attempt.finish_document("retrying", error={}, delay=3600))
    relay.do_chores()
    assert tasks.status(attempt.task.id) == "retrying"

    tasks.connection.execute("UPDATE tasks SET next_attempt_at = now() WHERE id = %s", (attempt.task.id,))
    relay.do_chores()

    assert tasks.history(attempt.task.id) == ["queued", "running", "retrying", "queued"]


def _lose(tasks: Any, task_id: UUID) -> None:
    tasks.connection.execute(
        "UPDATE tasks SET lease_until = now() - interval '1 s', named_claim = claim WHERE id = %s", (task_id,)
    )


def test_a_lost_attempt_counts_and_waits_for_the_next(tasks: Any, bench: Any, make_relay: Any) -> None:
    task_id = tasks.submit_one()
    bench.claim(task_id)
    _lose(tasks, task_id)

    make_relay().do_chores()

    row = tasks.get(task_id)
    assert (row.status, row.attempt, row.claim, row.finished_at) == ("retrying", 1, None, None)
    assert row.error["type"] == "/problems/worker-lost"
    assert tasks.history(task_id) == ["queued", "running", "retrying"]


def test_the_last_attempt_to_be_lost_fails_the_task(tasks: Any, bench: Any, make_relay: Any) -> None:
    task_id = tasks.submit_one(max_attempts=1)
    bench.claim(task_id)
    _lose(tasks, task_id)

    make_relay().do_chores()

    row = tasks.get(task_id)
    assert (row.status, row.error["type"], row.error["attempt"]) == ("failed", "/problems/worker-lost", 1)
    assert row.purge_at > row.finished_at


def test_a_lost_attempt_whose_cancel_was_asked_for_is_cancelled(tasks: Any, bench: Any, make_relay: Any) -> None:
    task_id = tasks.submit_one()
    bench.claim(task_id)
    tasks.cancel(task_id)
    tasks.connection.execute(
        "UPDATE tasks SET lease_until = now() - interval '1 s', named_claim = ~claim WHERE id = %s", (task_id,)
    )

    make_relay().do_chores()

    assert (tasks.status(task_id), tasks.get(task_id).error["type"]) == ("cancelled", "/problems/cancelled")


def test_after_an_outage_holders_of_leases_come_before_the_sweeper(
    tasks: Any, bench: Any, make_relay: Any, monkeypatch: Any, eventually: Any
) -> None:
    relay = make_relay(lease_seconds=6)
    sweeps: list[bool] = []
    really = relay.relay._do_chores_once

    def note(connection: Any, *, sweep: bool = True) -> None:
        sweeps.append(sweep)
        really(connection, sweep=sweep)

    monkeypatch.setattr(relay.relay, "_do_chores_once", note)
    relay.start()
    eventually(lambda: sweeps)
    assert all(sweeps)
    (attempt,) = bench.claim(tasks.submit_one())
    tasks.connection.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'taskmill-relay-chores'"
    )
    tasks.connection.execute(
        "UPDATE tasks SET lease_until = now(), named_claim = claim WHERE id = %s", (attempt.task.id,)
    )

    eventually(lambda: False in sweeps)
    assert tasks.status(attempt.task.id) == "running"
    # What its holder does not renew is taken back after a third of a lease and a second.
    eventually(lambda: tasks.status(attempt.task.id) != "running", 15)
    assert sweeps[-1]


def test_a_lease_that_is_not_over_is_left_alone(tasks: Any, bench: Any, make_relay: Any) -> None:
    task_id = tasks.submit_one()
    bench.claim(task_id)

    make_relay().do_chores()

    assert tasks.status(task_id) == "running"


@pytest.mark.parametrize("options", [{"ttl": 1800}, {"ttl": 1800, "delay": 3600}])
def test_what_is_not_started_within_its_ttl_expires(tasks: Any, make_relay: Any, options: dict[str, Any]) -> None:
    relay, task_id = make_relay(), tasks.submit_one(**options)
    relay.do_chores()
    assert tasks.status(task_id) in {"queued", "scheduled"}

    tasks.connection.execute("UPDATE tasks SET expires_at = now() WHERE id = %s", (task_id,))
    relay.do_chores()

    row = tasks.get(task_id)
    assert (row.status, row.error["type"], row.result) == ("expired", "/problems/expired", None)


def test_what_is_running_does_not_expire(tasks: Any, bench: Any, make_relay: Any) -> None:
    task_id = tasks.submit_one(ttl=3600)
    bench.claim(task_id)
    tasks.connection.execute("UPDATE tasks SET expires_at = now(), named_claim = claim WHERE id = %s", (task_id,))

    make_relay().do_chores()

    assert tasks.status(task_id) == "running"


def _rering(tasks: Any, **parameters: Any) -> set[UUID]:
    values = {"queue": "files", "seconds": 10.0, "oldest": None, "limit": 100, **parameters}
    return {row.id for row in tasks.connection.execute(relay_queries.RERING, values)}


def test_what_was_rung_long_ago_and_never_claimed_is_rung_again(tasks: Any) -> None:
    long_ago, lately, _ = tasks.submit(count=3)
    tasks.ring(long_ago, 11)
    tasks.ring(lately, 9)

    assert _rering(tasks) == {long_ago}
    assert tasks.get(long_ago).rung_at is None


def test_what_still_waits_in_the_broker_is_not_rung_again(tasks: Any) -> None:
    lost, oldest_there, there = tasks.submit(count=3)
    tasks.ring(lost, 1000)
    tasks.ring(oldest_there, 900)
    tasks.ring(there, 500)

    assert _rering(tasks, oldest=oldest_there) == {lost}


def test_a_message_whose_task_is_claimed_already_says_little_about_the_others(tasks: Any, bench: Any) -> None:
    claimed, long_ago, lately = tasks.submit(count=3)
    bench.claim(claimed)
    tasks.ring(long_ago, 41)
    tasks.ring(lately, 39)

    assert _rering(tasks, oldest=claimed) == {long_ago}


def test_the_oldest_message_is_the_one_that_is_received_next(settings: Settings, tasks: Any, make_relay: Any) -> None:
    relay, ids = make_relay(), tasks.submit(count=3)
    relay.release()
    doorbell = relay.relay._doorbell

    assert doorbell.find_oldest("files") == sorted(ids)[0]
    assert doorbell.find_oldest("reports") is None
    with redis.Redis.from_url(settings.broker_url) as client:
        client.rpush("files", b"\xff garbage")
    assert doorbell.find_oldest("files") is None


def test_a_relay_without_a_database_waits_for_it(settings: Settings, eventually: Any) -> None:
    relay = Relay(settings.model_copy(update={"database_url": "postgresql://nobody@127.0.0.1:1/nothing"}))
    thread = threading.Thread(target=relay.run, daemon=True)
    thread.start()
    time.sleep(0.3)
    assert thread.is_alive()

    relay.stop()

    thread.join(timeout=PATIENCE_SECONDS)
    assert not thread.is_alive()


def test_a_release_locks_little_of_a_long_queue(tasks: Any, make_relay: Any, settings: Settings) -> None:
    for number in range(1, 11):
        tasks.submit(count=100, owner=_uuid(number))
    with psycopg.connect(settings.database_url) as connection:
        connection.execute(hot_tasks.RELEASE, {"queue": "files", "window": 100, "after": None})
        free = tasks.connection.execute("SELECT id FROM tasks FOR UPDATE SKIP LOCKED").fetchall()

    assert len(free) >= 800


def test_the_doorbell_refuses_a_broker_of_another_kind(settings: Settings) -> None:
    other = settings.model_copy(update={"broker_url": "amqp://localhost"})
    with pytest.raises(ConfigurationError, match="redis://"):
        Doorbell(other, make_celery_app(settings))
