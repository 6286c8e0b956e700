"""What the relay publishes, in which order, and what it does when the broker or another relay is away."""

from __future__ import annotations

import base64
import json
import signal
import subprocess
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID, uuid4

import orjson
import psycopg
import pytest
import redis
from psycopg.rows import TupleRow

from cli.local_stack.broker import BrokerServer
from shared.contracts.catalog import list_kinds
from shared.database.connections import connect_hot
from shared.errors import ConfigurationError
from shared.queries import hot_tasks
from shared.queries.publishing import MARK_PUBLISHED, UNMARK
from shared.settings import Settings
from shared.tasks.options import TaskOptions
from shared.tasks.submission import make_task, submission_document
from shared.tasks.wakeup_channel import WAKEUP_CHANNEL, decode_task_ids
from tests.claims import claim_tasks
from tests.conftest import PATIENCE_SECONDS, Eventually, Parts, stays_true, wait_until_true
from tests.workers.conftest import Bench, Tasks
from tests.workers.received_events import received_events
from workers.celery_app import make_celery_app
from workers.relay import relay as relay_module
from workers.relay.chores import SWEEPER_LOCK, Chores
from workers.relay.doorbell import MARKER_KEY, Doorbell
from workers.relay.relay import Publisher, Relay


def _uuid(number: int) -> UUID:
    return UUID(int=number)


def _published(settings: Settings, queue: str = "files") -> list[UUID]:
    """Return the ids in the broker's messages, in the order in which they will be received."""
    with redis.Redis.from_url(settings.broker_url) as client:
        messages = client.lrange(queue, 0, -1)
    assert isinstance(messages, list)
    found = []
    for message in reversed(messages):
        headers = json.loads(message)["headers"]
        found += [UUID(task_id) for task_id in headers["ids"]]
    return found


class RunningRelay:
    """A relay in this process: its parts can be called one by one, or it runs."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.doorbell = Doorbell(settings, make_celery_app(settings))
        self.relay = Relay(settings, self.doorbell)
        self.publisher = Publisher(settings, self.doorbell, threading.Event())
        self.chores = Chores(settings, self.doorbell, threading.Event())
        self.connection = connect_hot(settings, "test-relay")
        self._thread: threading.Thread | None = None

    def publish(self, queue: str = "files") -> int:
        return self.publisher.publish_due(self.connection, queue)

    def do_chores(self) -> None:
        self.chores.run_once(self.connection)

    def start(self) -> None:
        self._thread = threading.Thread(target=self.relay.run, daemon=True)
        self._thread.start()
        # Until a relay has set its mark, it believes that the broker has lost its content, and republishes everything once.
        with redis.Redis.from_url(self.settings.broker_url) as client:
            wait_until_true(lambda: client.exists(MARKER_KEY))

    def stop(self) -> None:
        self.relay.stop()
        if self._thread:
            self._thread.join(timeout=PATIENCE_SECONDS)
            assert not self._thread.is_alive(), "the relay did not stop"
        self.doorbell.close()
        self.connection.close()


MakeRelay = Callable[..., RunningRelay]


@pytest.fixture
def make_relay(settings: Settings) -> Iterator[MakeRelay]:
    made: list[RunningRelay] = []

    def make(**changes: object) -> RunningRelay:
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


def _publish_and_list_by_turn(tasks: Tasks, relay: RunningRelay) -> list[UUID]:
    """Publish the due tasks and return their ids in the order in which they would be claimed."""
    relay.publish()
    rows = tasks.connection.execute(
        "SELECT id FROM tasks WHERE status = 'queued' AND rung_at IS NOT NULL ORDER BY turn NULLS FIRST, id"
    )
    return [row.id for row in rows]


def _claim_next(tasks: Tasks, count: int) -> list[UUID]:
    """Claim the tasks of `files` that are next, as a worker with so many free slots does."""
    parameters = {
        "queues": ["files"],
        "counts": [count],
        "kinds": ["platform.ping"],
        "claims": list(range(1, count + 1)),
        "lease": 60,
        "worker": "a test",
    }
    return [row.id for row in tasks.connection.execute(hot_tasks.CLAIM, parameters)]


def _owners(tasks: Tasks, ids: list[UUID]) -> list[int]:
    return [tasks.get(task_id).owner_id.int for task_id in ids]


def test_callers_are_published_in_turn_and_one_callers_tasks_by_priority_then_age(
    tasks: Tasks, make_relay: MakeRelay, settings: Settings
) -> None:
    many, few = _uuid(1), _uuid(2)
    low, high = tasks.submit(owner=many, count=3), tasks.submit(owner=many, priority=9, count=2)
    others = tasks.submit(owner=few, count=2)

    order = _publish_and_list_by_turn(tasks, make_relay())

    assert [task_id for task_id in order if task_id not in others] == high + low
    assert {order[0], order[1]} == {high[0], others[0]}
    assert {order[2], order[3]} == {high[1], others[1]}
    assert _published(settings) == order


def test_three_callers_are_claimed_in_turn(tasks: Tasks, make_relay: MakeRelay) -> None:
    for number in (1, 2, 3):
        tasks.submit(owner=_uuid(number), count=4)

    order = _publish_and_list_by_turn(tasks, make_relay())

    owners = _owners(tasks, order)
    assert [sorted(owners[place : place + 3]) for place in range(0, 12, 3)] == [[1, 2, 3]] * 4


def test_a_caller_who_comes_to_a_window_full_of_anothers_tasks_is_next(tasks: Tasks, make_relay: MakeRelay) -> None:
    backlog = tasks.submit(owner=_uuid(1), count=20)
    relay = make_relay(window=10)
    assert relay.publish() == 10
    assert _claim_next(tasks, 2) == backlog[:2]
    assert relay.publish() == 2

    late = tasks.submit(owner=_uuid(2), count=5)
    assert relay.publish() == 1

    assert _claim_next(tasks, 1) == late[:1]


@pytest.mark.parametrize("unmarked", [5, 10])
def test_a_new_caller_is_next_although_tasks_before_were_just_unmarked(
    tasks: Tasks, make_relay: MakeRelay, unmarked: int
) -> None:
    """Workers without a free slot unmark the next tasks, and a broker that was flushed unmarks all of them."""
    backlog = tasks.submit(owner=_uuid(1), count=40)
    relay = make_relay(window=10)
    relay.publish()
    tasks.submit(owner=_uuid(2), count=3)
    tasks.connection.execute(UNMARK, {"ids": backlog[:unmarked]})

    relay.publish()

    assert _owners(tasks, _claim_next(tasks, 6)) in ([2, 1, 2, 1, 2, 1], [2, 1, 1, 2, 1, 2])


def test_callers_alternate_although_one_had_the_whole_window(tasks: Tasks, make_relay: MakeRelay) -> None:
    tasks.submit(owner=_uuid(1), count=100)
    relay = make_relay(window=20)
    relay.publish()
    tasks.submit(owner=_uuid(2), count=100)
    claimed = []

    for _ in range(20):
        relay.publish()
        claimed += _claim_next(tasks, 2)

    owners = _owners(tasks, claimed)
    assert all(owners[:place].count(2) >= place // 2 - 1 for place in range(40))
    assert owners.count(2) <= 21


def test_a_caller_with_one_task_at_a_time_does_not_starve_a_backlog(tasks: Tasks, make_relay: MakeRelay) -> None:
    tasks.submit(owner=_uuid(1), count=20)
    relay = make_relay()
    claimed = []

    for _ in range(10):
        tasks.submit_one(owner=_uuid(2))
        relay.publish()
        claimed += _claim_next(tasks, 1)

    assert _owners(tasks, claimed).count(1) in {4, 5}


def test_a_caller_who_used_an_idle_queue_is_not_put_behind_others(tasks: Tasks, make_relay: MakeRelay) -> None:
    relay = make_relay()
    tasks.submit(owner=_uuid(1), count=50)
    relay.publish()
    _claim_next(tasks, 50)

    for number in (2, 1):
        tasks.submit(owner=_uuid(number), count=5)
    order = _publish_and_list_by_turn(tasks, relay)

    owners = _owners(tasks, order)
    assert all(abs(owners[:place].count(1) - owners[:place].count(2)) <= 2 for place in range(10))


def test_a_task_that_nobody_can_claim_does_not_let_a_new_caller_pass_for_long(
    tasks: Tasks, make_relay: MakeRelay
) -> None:
    relay = make_relay(window=5)
    stuck = tasks.submit_one(owner=_uuid(9))
    tasks.connection.execute("UPDATE tasks SET kind = 'files.unheard_of' WHERE id = %s", (stuck,))
    tasks.submit(owner=_uuid(1), count=100)
    for _ in range(40):
        relay.publish()
        _claim_next(tasks, 2)

    tasks.submit(owner=_uuid(2), count=50)
    claimed = []
    for _ in range(20):
        relay.publish()
        claimed += _claim_next(tasks, 1)

    # A caller is ahead of the others by at most one window.
    assert _owners(tasks, claimed).count(1) >= 5


def test_an_unmarked_or_requeued_task_keeps_its_turn(tasks: Tasks, bench: Bench, make_relay: MakeRelay) -> None:
    first, second, third = tasks.submit(count=3)
    relay = make_relay()
    order = _publish_and_list_by_turn(tasks, relay)
    (claimed,) = _claim_next(tasks, 1)
    tasks.connection.execute(UNMARK, {"ids": [second]})
    finish = {"id": claimed, "claim": 1, "status": "queued"}
    tasks.connection.execute(hot_tasks.FINISH, {"document": orjson.dumps([finish]).decode()})
    assert tasks.get(first).rung_at is None

    assert _publish_and_list_by_turn(tasks, relay) == order == [first, second, third]


def test_a_window_is_not_exceeded_but_for_one_task_of_each_caller(
    tasks: Tasks, bench: Bench, make_relay: MakeRelay, settings: Settings
) -> None:
    tasks.submit(count=10)
    relay = make_relay(window=4)

    assert [relay.publish(), relay.publish()] == [4, 0]
    cancelled, claimed, *_ = _published(settings)
    tasks.cancel(cancelled)
    bench.claim(claimed)
    assert [relay.publish(), relay.publish()] == [2, 0]

    for number in range(3):
        tasks.submit(owner=_uuid(number + 1), count=2)
    assert [relay.publish(), relay.publish()] == [3, 0]


def test_relays_that_publish_at_once_exceed_no_window_and_give_no_turn_twice(
    tasks: Tasks, make_relay: MakeRelay
) -> None:
    for number in range(4):
        tasks.submit(owner=_uuid(number + 1), count=50)
    relays = [make_relay(window=40) for _ in range(4)]
    start = threading.Barrier(4)

    def publish(relay: RunningRelay) -> int:
        start.wait(PATIENCE_SECONDS)
        return sum(relay.publish() for _ in range(5))

    with ThreadPoolExecutor(4) as threads:
        published = list(threads.map(publish, relays))

    assert sum(published) == 40
    rows = tasks.connection.execute("SELECT owner_id, turn FROM tasks WHERE rung_at IS NOT NULL").fetchall()
    assert len({(row.owner_id, row.turn) for row in rows}) == 40
    assert Counter(row.owner_id.int for row in rows) == {1: 10, 2: 10, 3: 10, 4: 10}


def test_a_queue_with_a_full_window_does_not_delay_other_queues(
    tasks: Tasks, make_relay: MakeRelay, settings: Settings, eventually: Eventually
) -> None:
    tasks.submit(count=5)
    other = tasks.submit_one(params={"queue": "reports"})
    make_relay(window=2).start()

    eventually(lambda: set(_published(settings, "reports")) == {other})
    eventually(lambda: len(set(_published(settings))) == 2)


def test_the_notice_of_a_submission_names_its_queue(tasks: Tasks) -> None:
    tasks.connection.execute(f"LISTEN {hot_tasks.DUE_CHANNEL}")

    tasks.submit_one(params={"queue": "reports"})
    (notice,) = tasks.connection.notifies(timeout=PATIENCE_SECONDS, stop_after=1)

    assert notice.payload == "reports"


def test_the_notice_of_tasks_of_two_queues_names_both(tasks: Tasks, settings: Settings) -> None:
    new = [
        make_task("platform.ping", list_kinds()["platform.ping"], b"{}", queue, TaskOptions(), _uuid(1), _uuid(1))
        for queue in ("reports", "email", "reports")
    ]
    tasks.connection.execute(f"LISTEN {hot_tasks.DUE_CHANNEL}")

    tasks.connection.execute(hot_tasks.SUBMIT, {"document": submission_document(new)})
    (notice,) = tasks.connection.notifies(timeout=PATIENCE_SECONDS, stop_after=1)

    assert notice.payload == "email,reports"


@pytest.mark.parametrize("payload", ["email", "no-queue,of,ours", ""])
def test_a_queue_that_no_notice_names_is_published_too(
    tasks: Tasks, make_relay: MakeRelay, settings: Settings, eventually: Eventually, payload: str
) -> None:
    make_relay().start()
    task_id = tasks.submit_one()
    eventually(lambda: _published(settings) == [task_id])

    with tasks.connection.transaction():
        tasks.connection.execute("UPDATE tasks SET rung_at = NULL WHERE id = %s", (task_id,))
        tasks.connection.execute("SELECT pg_notify(%s, %s)", (hot_tasks.DUE_CHANNEL, payload))

    eventually(lambda: _published(settings) == [task_id, task_id])


def test_a_queue_that_a_notice_names_is_not_searched_for(
    tasks: Tasks, make_relay: MakeRelay, eventually: Eventually, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    running = make_relay()
    list_due, publish = relay_module.list_due_queues, running.doorbell.publish
    monkeypatch.setattr(relay_module, "list_due_queues", lambda connection: done.append("list") or list_due(connection))
    monkeypatch.setattr(running.doorbell, "publish", lambda *due: done.append("publish") or publish(*due))
    running.start()

    firsts = []
    # A relay also searches once a second without a notice, which may happen in between.
    for _ in range(5):
        done.clear()
        tasks.submit_one()
        eventually(lambda: "publish" in done)
        eventually(lambda: done[-1] == "list")
        firsts.append(done[0])

    assert "publish" in firsts


def test_notices_are_received_while_the_window_is_full(
    tasks: Tasks, make_relay: MakeRelay, eventually: Eventually
) -> None:
    tasks.submit(count=5)
    make_relay(window=1).start()

    # More than the buffers of the connection hold while nobody reads.
    tasks.connection.execute(
        "SELECT pg_notify(%s, repeat('x', 100) || n) FROM generate_series(1, 100000) AS n", (hot_tasks.DUE_CHANNEL,)
    )

    def waits_for() -> list[str]:
        rows = tasks.connection.execute(
            "SELECT wait_event FROM pg_stat_activity WHERE application_name = 'taskmill-relay-listen'"
            " AND datname = current_database()"
        )
        return [row.wait_event for row in rows]

    def has_sent_everything() -> bool:
        """Return whether the server has nothing left to send to the relay for a whole second."""
        return stays_true(lambda: waits_for() == ["ClientRead"], 1)

    eventually(has_sent_everything)


def test_only_kinds_that_are_short_share_a_message(tasks: Tasks, make_relay: MakeRelay, settings: Settings) -> None:
    tasks.submit(count=100)
    relay = make_relay()
    relay.publish()
    relay.doorbell.publish("email", [(str(uuid4()), "email.send") for _ in range(100)])

    with redis.Redis.from_url(settings.broker_url) as client:
        assert 2 <= int(client.llen("files")) < 100  # type: ignore[arg-type]
        assert client.llen("email") == 100
    assert len(_published(settings)) == 100


def test_a_message_contains_ids_and_no_data(tasks: Tasks, make_relay: MakeRelay, settings: Settings) -> None:
    tasks.submit(params={"echo": "a secret"}, tags=["a tag"], metadata={"a": "word"})
    make_relay().publish()

    with redis.Redis.from_url(settings.broker_url) as client:
        (message,) = client.lrange("files", 0, -1)  # type: ignore[misc]
    assert b"secret" not in message
    assert b"a tag" not in message
    body = base64.b64decode(json.loads(message)["body"])
    assert json.loads(body)[:2] == [[], {}]


def test_tasks_that_a_broken_broker_refused_are_published_when_it_is_back(
    tasks: Tasks, make_relay: MakeRelay, own_broker: BrokerServer, eventually: Eventually
) -> None:
    relay = make_relay(broker_url=own_broker.url)
    relay.start()
    own_broker.kill()
    ids = tasks.submit(count=5)
    assert stays_true(lambda: tasks.statuses(ids) == {"queued"}, 1.5)

    own_broker.start()

    eventually(lambda: set(_published(relay.settings)) >= set(ids))
    eventually(lambda: all(tasks.get(task_id).rung_at is not None for task_id in ids))


def test_rows_are_not_marked_repeatedly_while_the_broker_is_away(
    tasks: Tasks, make_relay: MakeRelay, own_broker: BrokerServer
) -> None:
    relay = make_relay(broker_url=own_broker.url)
    own_broker.kill()
    task_id = tasks.submit_one()
    assert relay.publish() == 0

    def version_of_the_row() -> NamedTuple | None:
        return tasks.connection.execute("SELECT rung_at, ctid, xmin FROM tasks WHERE id = %s", (task_id,)).fetchone()

    before = version_of_the_row()
    assert relay.publish() == 0
    assert version_of_the_row() == before
    own_broker.start()
    assert relay.publish() == 1


def test_the_content_of_a_wiped_broker_is_published_again_at_once(
    tasks: Tasks, make_relay: MakeRelay, settings: Settings, eventually: Eventually
) -> None:
    make_relay(rering_seconds=600).start()
    ids = tasks.submit(count=5)
    eventually(lambda: len(_published(settings)) == 5)

    with redis.Redis.from_url(settings.broker_url) as client:
        client.flushall()

    eventually(lambda: sorted(_published(settings)) == sorted(ids))


def test_the_content_of_a_broker_without_its_file_is_published_again(
    tasks: Tasks, make_relay: MakeRelay, own_broker: BrokerServer, eventually: Eventually
) -> None:
    relay = make_relay(broker_url=own_broker.url, rering_seconds=600)
    relay.start()
    ids = tasks.submit(count=5)
    eventually(lambda: len(_published(relay.settings)) == 5)

    own_broker.kill()
    for path in (own_broker.directory / "data").rglob("*"):
        if path.is_file():
            path.unlink()
    own_broker.start()

    eventually(lambda: sorted(_published(relay.settings)) == sorted(ids))


def test_a_frozen_broker_does_not_delay_the_sweep_of_lost_leases(
    tasks: Tasks, bench: Bench, make_relay: MakeRelay, own_broker: BrokerServer, eventually: Eventually
) -> None:
    relay = make_relay(broker_url=own_broker.url)
    bench.claim(*tasks.submit(count=1))
    relay.start()
    eventually(lambda: tasks.connection.execute("SELECT part FROM signs_of_life WHERE part = 'sweeper'").fetchone())
    assert own_broker.pid
    subprocess.run(["kill", "-STOP", str(own_broker.pid)], check=True)
    try:
        waiting = tasks.submit_one()
        # Three leases, and more on a busy machine; far less than repeated waits for the broker would take.
        eventually(lambda: tasks.count("running") == 0, 15)
        assert tasks.status(waiting) == "queued"
    finally:
        subprocess.run(["kill", "-CONT", str(own_broker.pid)], check=True)
    eventually(lambda: waiting in _published(relay.settings))


def test_two_relays_publish_each_task_once(
    tasks: Tasks, make_relay: MakeRelay, settings: Settings, eventually: Eventually
) -> None:
    # Nothing is claimed here. With a short time, a task could be published again before the last one is published.
    relays = [make_relay(rering_seconds=600), make_relay(rering_seconds=600)]
    for relay in relays:
        relay.start()

    ids = [task_id for number in range(10) for task_id in tasks.submit(count=20, owner=_uuid(number + 1))]

    eventually(lambda: len(_published(settings)) >= 200)
    assert stays_true(lambda: sorted(_published(settings)) == sorted(ids), 0.5)


def _lock_holders(tasks: Tasks) -> list[int]:
    rows = tasks.connection.execute(
        "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND granted AND ((classid::bigint << 32) | objid::bigint) = %s"
        " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())",
        (SWEEPER_LOCK,),
    )
    return [row.pid for row in rows]


def test_one_relay_does_the_chores_and_another_takes_over_from_a_killed_one(
    tasks: Tasks, bench: Bench, parts: Parts, make_relay: MakeRelay, eventually: Eventually
) -> None:
    first = parts.start("relay")
    eventually(lambda: _lock_holders(tasks))
    second = make_relay()
    second.start()
    (holder,) = _lock_holders(tasks)
    assert stays_true(lambda: _lock_holders(tasks) == [holder], 1)

    first.send_signal(signal.SIGKILL)
    first.wait(PATIENCE_SECONDS)
    bench.claim(*tasks.submit(count=1))

    eventually(lambda: _lock_holders(tasks) not in ([], [holder]))
    eventually(lambda: tasks.count("running") == 0)


def test_a_frozen_relay_that_holds_the_lock_does_not_stop_the_chores(
    tasks: Tasks, bench: Bench, parts: Parts, make_relay: MakeRelay, eventually: Eventually
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
    tasks: Tasks, make_relay: MakeRelay, options: dict[str, Any]
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


def test_those_who_follow_a_task_are_woken_when_it_is_queued(
    tasks: Tasks, make_relay: MakeRelay, settings: Settings, eventually: Eventually
) -> None:
    relay, ids = make_relay(), tasks.submit(count=2, run_at="2026-01-01T00:00:00Z")
    with redis.Redis.from_url(settings.broker_url) as client, client.pubsub() as channel:
        channel.subscribe(WAKEUP_CHANNEL)
        assert eventually(lambda: channel.get_message(timeout=0.1))["type"] == "subscribe"

        relay.do_chores()

        message = eventually(lambda: channel.get_message(timeout=0.1))
    assert sorted(decode_task_ids(message["data"])) == sorted(ids)
    assert tasks.statuses(ids) == {"queued"}


def test_the_next_attempt_is_queued_when_it_is_due(tasks: Tasks, bench: Bench, make_relay: MakeRelay) -> None:
    relay, (attempt,) = make_relay(), bench.claim(tasks.submit_one())
    bench.finisher.write(attempt.finish_document("retrying", error={}, delay=3600))
    relay.do_chores()
    assert tasks.status(attempt.task.id) == "retrying"

    tasks.connection.execute("UPDATE tasks SET next_attempt_at = now() WHERE id = %s", (attempt.task.id,))
    relay.do_chores()

    assert tasks.history(attempt.task.id) == ["queued", "running", "retrying", "queued"]


def _lose(tasks: Tasks, task_id: UUID) -> None:
    tasks.connection.execute(
        "UPDATE tasks SET lease_until = now() - interval '1 s', named_claim = claim WHERE id = %s", (task_id,)
    )


def test_a_lost_attempt_is_counted_and_the_task_is_retried(tasks: Tasks, bench: Bench, make_relay: MakeRelay) -> None:
    task_id = tasks.submit_one()
    bench.claim(task_id)
    _lose(tasks, task_id)

    make_relay().do_chores()

    row = tasks.get(task_id)
    assert (row.status, row.attempt, row.claim, row.finished_at) == ("retrying", 1, None, None)
    assert row.error["type"] == "/problems/worker-lost"
    assert tasks.history(task_id) == ["queued", "running", "retrying"]


def test_a_lost_last_attempt_fails_the_task(tasks: Tasks, bench: Bench, make_relay: MakeRelay) -> None:
    task_id = tasks.submit_one(max_attempts=1)
    bench.claim(task_id)
    _lose(tasks, task_id)

    make_relay().do_chores()

    row = tasks.get(task_id)
    assert (row.status, row.error["type"], row.error["attempt"]) == ("failed", "/problems/worker-lost", 1)
    assert row.purge_at > row.finished_at


def test_a_lost_attempt_of_a_task_to_be_cancelled_is_cancelled(
    tasks: Tasks, bench: Bench, make_relay: MakeRelay
) -> None:
    task_id = tasks.submit_one()
    bench.claim(task_id)
    tasks.cancel(task_id)
    tasks.connection.execute(
        "UPDATE tasks SET lease_until = now() - interval '1 s', named_claim = ~claim WHERE id = %s", (task_id,)
    )

    make_relay().do_chores()

    assert (tasks.status(task_id), tasks.get(task_id).error["type"]) == ("cancelled", "/problems/cancelled")


@pytest.mark.parametrize(("max_attempts", "event"), [(1, "task-failed"), (2, "task-retried")])
def test_a_swept_attempt_ends_for_receivers_of_events_in_the_name_of_its_worker(
    tasks: Tasks, settings: Settings, make_relay: MakeRelay, eventually: Eventually, max_attempts: int, event: str
) -> None:
    relay, task_id = make_relay(), tasks.submit_one(max_attempts=max_attempts)
    canary = tasks.submit_one("platform.canary", params={"queue": "files"})
    claim_tasks(tasks.connection, [task_id, canary], lease_seconds=-1)
    with received_events(settings) as events:
        eventually(lambda: relay.doorbell.has_event_receivers())

        relay.do_chores()

        end = eventually(lambda: events.end_of(task_id))
    assert (end["type"], end["exception"], end["hostname"]) == (event, "/problems/worker-lost", "a test")
    assert tasks.status(canary) != "running"
    assert events.of(canary) == []


def test_after_an_outage_leases_can_be_renewed_before_the_sweep(
    tasks: Tasks, bench: Bench, make_relay: MakeRelay, monkeypatch: pytest.MonkeyPatch, eventually: Eventually
) -> None:
    relay = make_relay(lease_seconds=6)
    sweeps: list[bool] = []
    really = Chores.run_once

    def note(chores: Chores, connection: psycopg.Connection[TupleRow], *, sweep: bool = True) -> None:
        sweeps.append(sweep)
        really(chores, connection, sweep=sweep)

    monkeypatch.setattr(Chores, "run_once", note)
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
    # A lease that its holder does not renew is swept after a third of a lease and a second.
    eventually(lambda: tasks.status(attempt.task.id) != "running", 15)
    assert sweeps[-1]


def test_a_lease_that_is_not_over_is_left_alone(tasks: Tasks, bench: Bench, make_relay: MakeRelay) -> None:
    task_id = tasks.submit_one()
    bench.claim(task_id)

    make_relay().do_chores()

    assert tasks.status(task_id) == "running"


@pytest.mark.parametrize("options", [{"ttl": 1800}, {"ttl": 1800, "delay": 3600}])
def test_a_task_that_is_not_started_within_its_ttl_expires(
    tasks: Tasks, make_relay: MakeRelay, options: dict[str, Any]
) -> None:
    relay, task_id = make_relay(), tasks.submit_one(**options)
    relay.do_chores()
    assert tasks.status(task_id) in {"queued", "scheduled"}

    tasks.connection.execute("UPDATE tasks SET expires_at = now() WHERE id = %s", (task_id,))
    relay.do_chores()

    row = tasks.get(task_id)
    assert (row.status, row.error["type"], row.result) == ("expired", "/problems/expired", None)


def test_a_running_task_does_not_expire(tasks: Tasks, bench: Bench, make_relay: MakeRelay) -> None:
    task_id = tasks.submit_one(ttl=3600)
    bench.claim(task_id)
    tasks.connection.execute("UPDATE tasks SET expires_at = now(), named_claim = claim WHERE id = %s", (task_id,))

    make_relay().do_chores()

    assert tasks.status(task_id) == "running"


def test_a_task_that_was_published_long_ago_and_never_claimed_is_republished(
    tasks: Tasks, make_relay: MakeRelay, settings: Settings
) -> None:
    relay = make_relay(rering_seconds=10)
    relay.doorbell.store_marker()
    long_ago, lately = tasks.submit(count=2)
    tasks.publish([long_ago], seconds_ago=11)
    tasks.publish([lately], seconds_ago=9)

    relay.do_chores()

    assert tasks.get(long_ago).rung_at is None
    assert tasks.get(lately).rung_at is not None


def test_nothing_is_republished_while_a_message_of_the_queue_is_left(tasks: Tasks, make_relay: MakeRelay) -> None:
    relay = make_relay(rering_seconds=10)
    relay.doorbell.store_marker()
    (task_id,) = tasks.submit(count=1)
    relay.publish()
    tasks.publish([task_id], seconds_ago=1000)

    relay.do_chores()

    assert tasks.get(task_id).rung_at is not None


def test_a_relay_without_a_database_waits_for_it(settings: Settings, eventually: Eventually) -> None:
    without_database = settings.model_copy(update={"database_url": "postgresql://nobody@127.0.0.1:1/nothing"})
    relay = Relay(without_database, Doorbell(settings, make_celery_app(settings)))
    thread = threading.Thread(target=relay.run, daemon=True)
    thread.start()
    assert stays_true(thread.is_alive, 0.3)

    relay.stop()

    thread.join(timeout=PATIENCE_SECONDS)
    assert not thread.is_alive()


def test_publishing_locks_little_of_a_long_queue(tasks: Tasks, make_relay: MakeRelay, settings: Settings) -> None:
    for number in range(1, 11):
        tasks.submit(count=100, owner=_uuid(number))
    with psycopg.connect(settings.database_url) as connection:
        connection.execute(MARK_PUBLISHED, {"queue": "files", "window": 100})
        free = tasks.connection.execute("SELECT id FROM tasks FOR UPDATE SKIP LOCKED").fetchall()

    assert len(free) >= 800


def test_the_doorbell_refuses_a_broker_of_another_kind(settings: Settings) -> None:
    other = settings.model_copy(update={"broker_url": "amqp://localhost"})
    with pytest.raises(ConfigurationError, match="redis://"):
        Doorbell(other, make_celery_app(settings))
