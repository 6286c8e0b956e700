"""A worker as a process: its messages, how it stops, and what happens when it is killed or frozen."""

from __future__ import annotations

import base64
import json
import os
import pickle
import signal
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol
from uuid import UUID

import pytest
import redis
from pydantic import JsonValue

from cli.local_stack.broker import BrokerServer
from cli.local_stack.postgres import PostgresServer
from shared.contracts.catalog import list_kinds
from shared.database.schema_migrations import migrate
from shared.errors import ConfigurationError
from shared.settings import Settings
from shared.tasks.wakeup_channel import WAKEUP_CHANNEL, decode_task_ids
from tests.conftest import PATIENCE_SECONDS, Eventually, Parts, stays_true
from tests.forked_parts import Part
from tests.workers.conftest import Tasks
from workers.celery_app import make_celery_app
from workers.engine.scratch_folder import ScratchFolder
from workers.relay.doorbell import Doorbell

GRACE_SECONDS = 2
LOST_AFTER_SECONDS = 5
"""The lease where an attempt is to be lost: shorter ones are lost by a machine that stands still for a moment."""
LONGEST_STOP_SECONDS = GRACE_SECONDS + 4 + 10
"""The guaranteed time, and ten seconds for a busy machine."""


PATIENT_WORKER = """
from shared.settings import read_settings
from workers.engine import claiming
from workers.engine import worker_process

claiming.LONGEST_ANNOUNCED_SECONDS = 600
worker_process.run_worker(read_settings(), ["files"], {slots})
"""


@pytest.fixture(autouse=True)
def end_parts_at_once(parts: Parts) -> Iterator[None]:
    """An orderly stop is a second of its own, and is looked at where it is meant."""
    yield
    for process in parts.processes:
        if process.poll() is None:
            process.kill()


@pytest.fixture
def patient_parts(parts: Parts) -> Parts:
    """Parts with a lease of 30 s, which is not lost on a busy machine."""
    parts.settings = parts.settings.model_copy(update={"lease_seconds": 30})
    return parts


class Publish(Protocol):
    """The fixture `publish`."""

    def __call__(self, ids: list[UUID], queue: str = "files", kind: str = "platform.ping") -> None:
        """Mark tasks as published, and send a message for each, as the relay does."""


@pytest.fixture
def publish(settings: Settings, tasks: Tasks) -> Iterator[Publish]:
    doorbell = Doorbell(settings, make_celery_app(settings))

    def publish(ids: list[UUID], queue: str = "files", kind: str = "platform.ping") -> None:
        tasks.publish(ids)
        for task_id in ids:
            doorbell.publish(queue, [(str(task_id), kind)])

    yield publish
    doorbell.close()


def _take_message(settings: Settings, queue: str) -> dict[str, Any]:
    with redis.Redis.from_url(settings.broker_url) as client:
        message = client.rpop(queue)
    assert isinstance(message, bytes), "the broker has no message"
    return dict(json.loads(message))


def _push(settings: Settings, *messages: bytes | str, queue: str = "files") -> None:
    with redis.Redis.from_url(settings.broker_url) as client:
        client.lpush(queue, *messages)


def _folders(settings: Settings) -> list[Path]:
    assert settings.scratch_dir is not None
    return list(settings.scratch_dir.glob("worker-*/*-*"))


def test_a_task_that_is_published_five_times_runs_once(
    tasks: Tasks, parts: Parts, publish: Publish, eventually: Eventually
) -> None:
    # Announcements that wait for half a second are given up, and here no relay would publish the tasks again.
    parts.start_script(PATIENT_WORKER.format(slots=4))
    ids = tasks.submit(count=20)

    for _ in range(5):
        publish(ids)

    eventually(lambda: tasks.all_done(ids))
    proof = tasks.submit(count=1)
    publish(proof)
    eventually(lambda: tasks.all_done(proof))
    assert {tuple(tasks.history(task_id)) for task_id in ids} == {("queued", "running", "succeeded")}
    assert {tasks.get(task_id).attempt for task_id in ids} == {1}


def test_those_who_follow_a_task_are_woken_while_it_runs(
    tasks: Tasks, parts: Parts, publish: Publish, settings: Settings, eventually: Eventually
) -> None:
    task_id = tasks.submit_one(params={"sleep_ms": 60_000})
    with redis.Redis.from_url(settings.broker_url) as client, client.pubsub() as channel:
        channel.subscribe(WAKEUP_CHANNEL)
        assert eventually(lambda: channel.get_message(timeout=0.1))["type"] == "subscribe"
        parts.start_script(PATIENT_WORKER.format(slots=4))
        publish([task_id])

        message = eventually(lambda: channel.get_message(timeout=0.1))

    assert list(decode_task_ids(message["data"])) == [task_id]
    assert tasks.status(task_id) == "running"


def _garbage(settings: Settings, publish: Publish, task_id: UUID) -> dict[str, bytes | str]:
    """Return messages with one error each, by a description of the error."""
    publish([task_id], queue="reports")
    good = _take_message(settings, "reports")

    def with_headers(**changes: JsonValue) -> str:
        return json.dumps({**good, "headers": {**good["headers"], **changes}})

    pickled = base64.b64encode(pickle.dumps(([], {}, {}))).decode()
    return {
        "no JSON": b"\xff\xfe{",
        "JSON, but no object": b"[1, 2]",
        "an empty object": b"{}",
        "a body that is no base64": json.dumps({**good, "body": "%%%"}),
        "a body that is no JSON": json.dumps({**good, "body": base64.b64encode(b"{").decode()}),
        "no properties": json.dumps({k: v for k, v in good.items() if k != "properties"}),
        "no headers": json.dumps({**good, "headers": None}),
        "headers that are a list": json.dumps({**good, "headers": ["task"]}),
        "no id": with_headers(id=None, ids=None),
        "an id that is a number": with_headers(id=5, ids=5),
        "ids that are no ids": with_headers(ids=[5, None, "x", {"a": 1}]),
        "an unknown kind": with_headers(task="files.unheard_of", ids=[str(task_id)]),
        "a kind that is a list": with_headers(task=["platform.ping"]),
        "odd times": with_headers(expires="soon", eta="later", timelimit="long", stamped_headers=5, ids=[]),
        "a pickle": json.dumps({**good, "content-type": "application/x-python-serialize", "body": pickled}),
        "an unknown content type": json.dumps({**good, "content-type": "application/x-odd", "content-encoding": "odd"}),
        "a huge one": json.dumps({**good, "body": "A" * (8 << 20)}),
    }


def test_no_malformed_message_ends_a_worker(
    tasks: Tasks, parts: Parts, publish: Publish, settings: Settings, eventually: Eventually
) -> None:
    unheard_of, *_ = tasks.submit(count=1)
    worker = parts.start_worker(concurrency=1)

    for name, message in _garbage(settings, publish, unheard_of).items():
        _push(settings, message)
        proof = tasks.submit(count=1)
        publish(proof)
        eventually(lambda: tasks.all_done(proof) or worker.poll() is not None)  # noqa: B023
        assert worker.poll() is None, f"after {name}: {parts.logs()[-3000:]}"


def test_a_task_of_a_kind_that_a_worker_does_not_know_stays_queued(
    tasks: Tasks, parts: Parts, publish: Publish, eventually: Eventually
) -> None:
    worker = parts.start_worker()
    task_id, proof = tasks.submit_one(), tasks.submit_one()
    tasks.connection.execute("UPDATE tasks SET kind = 'files.unheard_of' WHERE id = %s", (task_id,))

    publish([task_id], kind="files.unheard_of")
    publish([proof])

    eventually(lambda: tasks.status(proof) == "succeeded")
    assert tasks.history(task_id) == ["queued"]
    assert worker.poll() is None


def test_revoke_of_celery_stops_no_task_and_no_worker(
    tasks: Tasks, parts: Parts, publish: Publish, settings: Settings, eventually: Eventually
) -> None:
    parts.settings = settings.model_copy(update={"worker_remote_control": True})
    parts.start_worker()
    first, revoked, last = tasks.submit(count=3)
    publish([first])
    eventually(lambda: tasks.status(first) == "succeeded")
    app = make_celery_app(settings)
    assert app.control.revoke(str(revoked), reply=True, limit=1, timeout=PATIENCE_SECONDS)

    publish([revoked, last])

    eventually(lambda: tasks.all_done([revoked, last]))
    assert tasks.statuses([revoked, last]) == {"succeeded"}
    app.close()


def test_remote_control_answers_where_the_setting_switches_it_on(
    tasks: Tasks, parts: Parts, publish: Publish, settings: Settings, eventually: Eventually
) -> None:
    parts.settings = settings.model_copy(update={"worker_remote_control": True})
    parts.start_worker("files", concurrency=3)
    app = make_celery_app(settings)
    eventually(lambda: app.control.ping(timeout=1))
    long = tasks.submit_one(params={"sleep_ms": 20_000, "echo": "a secret"})
    publish([long])
    eventually(lambda: tasks.status(long) == "running")
    inspect = app.control.inspect(timeout=PATIENCE_SECONDS, limit=1)
    (active,), (queues,) = (list(answer.values()) for answer in (inspect.active(), inspect.active_queues()))
    (registered,) = inspect.registered().values()
    app.close()

    assert [task["id"] for task in active] == [str(long)]
    assert [queue["name"] for queue in queues] == ["files"]
    assert set(registered) == set(list_kinds())
    assert "secret" not in str(active)


def _span_seconds(tasks: Tasks, ids: list[UUID]) -> float:
    """Return the seconds from the first start to the last end of these tasks, by the clock of the database."""
    statement = "SELECT extract(epoch FROM max(finished_at) - min(started_at)) AS s FROM tasks WHERE id = ANY(%s)"
    return float(tasks.connection.execute(statement, (ids,)).fetchone().s)


def test_as_many_attempts_run_at_once_as_there_are_slots(
    tasks: Tasks, engine_room: Parts, eventually: Eventually
) -> None:
    ids = tasks.submit(count=4, params={"sleep_ms": 1000})

    eventually(lambda: tasks.count("running") == 2)
    eventually(lambda: tasks.all_done(ids))

    # Four seconds of sleep take two in two slots.
    assert _span_seconds(tasks, ids) > 1.9


def test_tasks_are_spread_over_the_slots_of_two_workers(
    tasks: Tasks, patient_parts: Parts, eventually: Eventually
) -> None:
    parts = patient_parts
    parts.start("relay")
    parts.start_worker("files", concurrency=2)
    parts.start_worker("files", concurrency=2)
    # Fast tasks first: the workers then claim ahead, which must not delay slow tasks while the other worker is idle.
    warm = tasks.submit(count=300)
    eventually(lambda: tasks.all_done(warm))

    ids = tasks.submit(count=16, params={"sleep_ms": 1000})
    eventually(lambda: tasks.all_done(ids))

    # Sixteen seconds of sleep take four in the slots of both workers, and eight in those of one.
    assert _span_seconds(tasks, ids) < 8


def test_a_worker_requeues_tasks_that_it_claimed_beyond_its_slots(
    tasks: Tasks, patient_parts: Parts, eventually: Eventually
) -> None:
    parts = patient_parts
    parts.start("relay")
    parts.start_worker("files", concurrency=2)
    warm = tasks.submit(count=300)
    eventually(lambda: tasks.all_done(warm))

    # After the fast tasks, the worker claims these slow ones ahead.
    ids = tasks.submit(count=10, params={"sleep_ms": 60_000})
    eventually(lambda: tasks.count("running") >= 2)

    # A busy machine requeues them later, yet long before one that runs ends.
    eventually(lambda: stays_true(lambda: tasks.count("running") == 2, 1.5), 50)
    assert tasks.statuses(ids) == {"running", "queued"}


def test_a_worker_busy_with_a_long_task_holds_no_message_back(
    tasks: Tasks, patient_parts: Parts, eventually: Eventually
) -> None:
    parts = patient_parts
    parts.start("relay")
    busy = parts.start_worker("files", concurrency=1)
    long = tasks.submit_one(params={"sleep_ms": 60_000})
    eventually(lambda: tasks.status(long) == "running")
    ids = tasks.submit(count=5, params={"sleep_ms": 10})
    eventually(lambda: all(tasks.get(task_id).rung_at for task_id in ids))

    parts.start_worker("files", concurrency=1)

    eventually(lambda: tasks.all_done(ids), 50)
    assert tasks.status(long) == "running"
    busy.send_signal(signal.SIGKILL)


def test_another_callers_task_starts_before_the_rest_of_a_backlog(
    tasks: Tasks, patient_parts: Parts, eventually: Eventually
) -> None:
    params = {"sleep_ms": 1000, "queue": "reports"}
    patient_parts.start("relay")
    patient_parts.start_worker("reports", concurrency=2)
    backlog = tasks.submit(count=6, params=params, owner=uuid.uuid4())
    eventually(lambda: tasks.count("running") == 2)

    other = tasks.submit_one(params={"queue": "reports"}, owner=uuid.uuid4())
    eventually(lambda: tasks.status(other) == "succeeded")
    eventually(lambda: tasks.get(backlog[2]).started_at)

    assert tasks.get(other).started_at < tasks.get(backlog[2]).started_at


def test_higher_priority_is_started_sooner(tasks: Tasks, parts: Parts, eventually: Eventually) -> None:
    low = tasks.submit(count=6, priority=1, params={"sleep_ms": 50})
    high = tasks.submit(count=6, priority=8, params={"sleep_ms": 50})
    parts.start("relay")
    # On a busy machine, a task may wait for a slot for more than half a second. It is then unmarked, and published later.
    parts.start_script(PATIENT_WORKER.format(slots=1))

    eventually(lambda: tasks.all_done(low + high))

    order = tasks.connection.execute("SELECT priority FROM tasks ORDER BY started_at").fetchall()
    assert [row.priority for row in order] == [8] * 6 + [1] * 6


def test_a_sleeping_task_is_cancelled_within_two_heartbeats(
    tasks: Tasks, engine_room: Parts, eventually: Eventually
) -> None:
    task_id = tasks.submit_one(params={"sleep_ms": 60_000})
    eventually(lambda: tasks.status(task_id) == "running")

    tasks.cancel(task_id)

    # Two heartbeats are less than two seconds; the rest is for a busy machine, and far from the end of the sleep.
    eventually(lambda: tasks.status(task_id) == "cancelled", 30)


def _kill_while_running(
    tasks: Tasks, parts: Parts, eventually: Eventually, *, options: dict[str, Any] | None = None
) -> tuple[UUID, float]:
    parts.settings = parts.settings.model_copy(update={"lease_seconds": LOST_AFTER_SECONDS})
    parts.start("relay")
    worker = parts.start_worker("files", concurrency=1)
    task_id = tasks.submit_one(params={"sleep_ms": 3000}, **(options or {}))
    eventually(lambda: tasks.status(task_id) == "running")
    worker.send_signal(signal.SIGKILL)
    worker.wait(PATIENCE_SECONDS)
    killed_at = time.monotonic()
    return task_id, killed_at


def test_a_task_of_a_killed_worker_is_swept_within_three_leases(
    tasks: Tasks, parts: Parts, eventually: Eventually
) -> None:
    task_id, killed_at = _kill_while_running(tasks, parts, eventually)
    eventually(lambda: tasks.status(task_id) != "running")
    recovered = time.monotonic() - killed_at

    parts.start_worker("files")

    eventually(lambda: tasks.status(task_id) == "succeeded")
    assert recovered < 3 * LOST_AFTER_SECONDS
    assert tasks.history(task_id) == ["queued", "running", "retrying", "queued", "running", "succeeded"]


def test_a_frozen_worker_that_wakes_after_its_lease_writes_nothing(
    tasks: Tasks, parts: Parts, eventually: Eventually
) -> None:
    parts.settings = parts.settings.model_copy(update={"lease_seconds": LOST_AFTER_SECONDS})
    parts.start("relay")
    frozen = parts.start_worker("files", concurrency=1)
    task_id = tasks.submit_one(params={"sleep_ms": 2500, "echo": "x"})
    eventually(lambda: tasks.status(task_id) == "running")
    frozen.send_signal(signal.SIGSTOP)
    eventually(lambda: tasks.status(task_id) in {"retrying", "queued"})
    other = parts.start_worker("files", concurrency=1)
    eventually(lambda: tasks.status(task_id) == "running")

    frozen.send_signal(signal.SIGCONT)
    eventually(lambda: tasks.status(task_id) == "succeeded")
    assert stays_true(lambda: tasks.status(task_id) == "succeeded", 1)

    assert tasks.history(task_id) == ["queued", "running", "retrying", "queued", "running", "succeeded"]
    assert tasks.get(task_id).attempt == 2
    assert frozen.poll() is None
    assert other.poll() is None
    # The worker that was frozen still runs tasks.
    other.terminate()
    other.wait(PATIENCE_SECONDS)
    proof = tasks.submit_one()
    eventually(lambda: tasks.status(proof) == "succeeded")


def _stop(process: Part) -> float:
    started = time.monotonic()
    process.send_signal(signal.SIGTERM)
    process.wait(timeout=PATIENCE_SECONDS)
    return time.monotonic() - started


def test_a_stopped_worker_finishes_short_tasks_and_requeues_long_ones(
    tasks: Tasks, patient_parts: Parts, settings: Settings, eventually: Eventually
) -> None:
    parts = patient_parts
    parts.start("relay")
    worker = parts.start_worker("files", concurrency=2)
    short, long = tasks.submit_one(params={"sleep_ms": 1200}), tasks.submit_one(params={"sleep_ms": 6000})
    eventually(lambda: tasks.count("running") == 2)
    waiting = tasks.submit(count=4)
    eventually(lambda: all(tasks.get(task_id).rung_at for task_id in waiting))

    took = _stop(worker)

    assert took < LONGEST_STOP_SECONDS
    assert tasks.status(short) == "succeeded"
    assert (tasks.status(long), tasks.get(long).attempt) == ("queued", 0)
    assert worker.returncode == 0
    assert not _folders(settings)
    parts.start_worker("files", concurrency=2)
    eventually(lambda: tasks.all_done([long, *waiting]))
    assert tasks.history(long) == ["queued", "running", "queued", "running", "succeeded"]


def test_an_idle_worker_stops_at_once_and_leaves_no_folder(
    tasks: Tasks, parts: Parts, settings: Settings, eventually: Eventually
) -> None:
    parts.start("relay")
    worker = parts.start_worker()
    warm = tasks.submit(count=1)
    eventually(lambda: tasks.all_done(warm))

    assert _stop(worker) < LONGEST_STOP_SECONDS
    assert settings.scratch_dir is not None
    assert list(settings.scratch_dir.iterdir()) == []


@pytest.fixture
def own_broker(tmp_path: Path) -> Iterator[BrokerServer]:
    """A broker that the test may stop."""
    with BrokerServer(tmp_path / "own-broker") as server:
        yield server


@pytest.fixture
def own_postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    """A Postgres that the test may stop."""
    with PostgresServer(tmp_path_factory.mktemp("own-postgres"), fast=True) as server:
        migrate(Settings(database_url=server.url))
        yield server


def test_work_goes_on_when_the_broker_comes_back(
    tasks: Tasks, parts: Parts, own_broker: BrokerServer, eventually: Eventually
) -> None:
    parts.settings = parts.settings.model_copy(update={"broker_url": own_broker.url})
    parts.start("relay")
    worker = parts.start_worker("files")
    before = tasks.submit(count=5)
    eventually(lambda: tasks.all_done(before))

    running = tasks.submit_one(params={"sleep_ms": 1500})
    eventually(lambda: tasks.status(running) == "running")
    own_broker.kill()
    during = tasks.submit(count=5)
    # Running tasks need no broker.
    eventually(lambda: tasks.status(running) == "succeeded")
    own_broker.start()

    eventually(lambda: tasks.all_done(during))
    assert worker.poll() is None


def test_a_worker_without_a_broker_stops_in_time(
    tasks: Tasks, patient_parts: Parts, own_broker: BrokerServer, eventually: Eventually
) -> None:
    parts = patient_parts
    parts.settings = parts.settings.model_copy(update={"broker_url": own_broker.url})
    parts.start("relay")
    worker = parts.start_worker("files")
    long = tasks.submit_one(params={"sleep_ms": 30_000})
    eventually(lambda: tasks.status(long) == "running")
    own_broker.kill()
    assert stays_true(lambda: worker.poll() is None, 1)

    assert _stop(worker) < LONGEST_STOP_SECONDS
    assert (tasks.status(long), tasks.get(long).attempt) == ("queued", 0)


def test_a_worker_without_a_database_stops_in_time(
    parts: Parts, own_postgres: PostgresServer, connect_tasks: type[Tasks], eventually: Eventually
) -> None:
    # A worker tries to write a finish for as long as a lease, which may be longer than its time to stop.
    parts.settings = parts.settings.model_copy(update={"database_url": own_postgres.url, "lease_seconds": 60})
    tasks = connect_tasks(parts.settings)
    parts.start("relay")
    worker = parts.start_worker("files")
    long = tasks.submit_one(params={"sleep_ms": 30_000})
    eventually(lambda: tasks.status(long) == "running")
    tasks.connection.close()
    own_postgres.kill()

    assert _stop(worker) < LONGEST_STOP_SECONDS


def test_tasks_that_end_while_the_database_restarts_are_finished_once(
    parts: Parts, own_postgres: PostgresServer, connect_tasks: type[Tasks], eventually: Eventually
) -> None:
    parts.settings = parts.settings.model_copy(update={"database_url": own_postgres.url, "lease_seconds": 6})
    tasks = connect_tasks(parts.settings)
    parts.start("relay")
    parts.start_worker("files", concurrency=8)
    warm = tasks.submit(count=8)
    eventually(lambda: tasks.all_done(warm))
    ids = tasks.submit(count=16, params={"sleep_ms": 300})
    eventually(lambda: tasks.count("succeeded") > len(warm))
    tasks.connection.close()

    own_postgres.kill()
    own_postgres.start()

    tasks = connect_tasks(parts.settings)
    eventually(lambda: tasks.all_done(ids))
    assert tasks.statuses(ids) == {"succeeded"}
    for task_id in ids:
        assert tasks.history(task_id).count("succeeded") == 1
    tasks.connection.close()


def test_the_folder_of_a_killed_worker_is_removed_and_that_of_a_living_one_is_not(
    tasks: Tasks, parts: Parts, settings: Settings, publish: Publish, eventually: Eventually
) -> None:
    root = settings.scratch_dir
    assert root is not None
    killed = parts.start_worker("email")
    eventually(lambda: len(list(root.glob("worker-*/lock"))) == 1)
    killed.send_signal(signal.SIGKILL)
    killed.wait(PATIENCE_SECONDS)
    (abandoned,) = root.iterdir()
    living = parts.start_worker("files")
    eventually(lambda: not abandoned.exists())
    other = parts.start_worker("reports")

    proofs = [tasks.submit_one(params={"queue": queue}) for queue in ("files", "reports")]
    publish(proofs[:1], queue="files")
    publish(proofs[1:], queue="reports")

    eventually(lambda: tasks.all_done(proofs))
    assert len(list(root.glob("worker-*/lock"))) == 2
    _stop(living)
    _stop(other)
    assert list(root.iterdir()) == []


def test_a_poison_task_fails_and_its_neighbours_finish(tasks: Tasks, parts: Parts, eventually: Eventually) -> None:
    parts.start("relay")
    task_id = tasks.submit_one(params={"sleep_ms": 60_000}, max_attempts=2)
    neighbours = tasks.submit(count=5)
    for attempt in (1, 2):
        worker = parts.start_worker("files", concurrency=2)
        eventually(lambda: (tasks.get(task_id).attempt, tasks.status(task_id)) == (attempt, "running"))  # noqa: B023
        worker.send_signal(signal.SIGKILL)
        worker.wait(PATIENCE_SECONDS)
    parts.start_worker("files")

    eventually(lambda: tasks.status(task_id) == "failed")
    eventually(lambda: tasks.all_done(neighbours))
    assert tasks.get(task_id).error["type"] == "/problems/worker-lost"
    assert tasks.statuses(neighbours) == {"succeeded"}


@pytest.mark.parametrize("queues", ["nothing", "files,nothing"])
def test_a_worker_for_an_unknown_queue_does_not_start(parts: Parts, queues: str) -> None:
    worker = parts.start("worker", "--queues", queues)

    assert worker.wait(timeout=PATIENCE_SECONDS) != 0
    assert "unknown queues: nothing" in parts.logs()


def test_a_worker_logs_one_line_for_each_attempt_that_ended(
    tasks: Tasks, patient_parts: Parts, eventually: Eventually
) -> None:
    patient_parts.start("relay")
    patient_parts.start_worker()
    failing = tasks.submit_one(params={"sleep_ms": 5000, "echo": "a secret"}, timeout=1, max_attempts=1)
    succeeding = tasks.submit_one(params={"echo": "a secret"})
    canary = tasks.submit_one("platform.canary")

    def read_ends() -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in patient_parts.logs().splitlines() if line.startswith("{")]
        return [line for line in lines if line["event"].startswith("task_")]

    eventually(lambda: tasks.all_done([failing, succeeding, canary]) and len(read_ends()) == 2)
    ends = {line["task_id"]: line for line in read_ends()}
    assert ends.keys() == {str(failing), str(succeeding)}
    assert (ends[str(failing)]["event"], ends[str(failing)]["error"]) == ("task_failed", "/problems/timed-out")
    assert (ends[str(succeeding)]["event"], ends[str(succeeding)]["kind"]) == ("task_succeeded", "platform.ping")
    assert ends[str(failing)]["duration_ms"] >= 1000
    assert {"attempt", "request_id"} <= ends[str(succeeding)].keys()
    assert "secret" not in patient_parts.logs()


STUCK_WORKER = """
import time
import uuid
from shared.settings import read_settings
from workers.engine import heartbeat
from workers.engine import worker_process
from workers.handlers.platform import ping

def handle(params, context):
    if params.echo == "stuck":
        time.sleep(600)
    return handle_as_ever(params, context)

handle_as_ever, ping.handle = ping.handle, handle
heartbeat.HARD_LIMIT_SECONDS = 0.5
worker_process.run_worker(read_settings(), ["files"], 3)
"""


def test_a_handler_that_never_checks_ends_its_process_and_its_task_fails(
    tasks: Tasks, patient_parts: Parts, settings: Settings, eventually: Eventually
) -> None:
    parts = patient_parts
    parts.start("relay")
    stuck = tasks.submit_one(params={"echo": "stuck"}, timeout=1, max_attempts=1)
    neighbour = tasks.submit_one(params={"sleep_ms": 60_000})
    worker = parts.start_script(STUCK_WORKER)
    eventually(lambda: tasks.count("running") == 2)

    eventually(lambda: tasks.status(stuck) == "failed")

    assert tasks.get(stuck).error["type"] == "/problems/timed-out"
    assert worker.wait(timeout=PATIENCE_SECONDS) == 1
    assert (tasks.status(neighbour), tasks.get(neighbour).attempt) == ("queued", 0)
    assert settings.scratch_dir is not None
    assert list(settings.scratch_dir.iterdir()) == []


def test_a_scratch_folder_that_belongs_to_someone_else_is_not_used(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path))
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / f"taskmill-scratch-{os.getuid()}").symlink_to(tmp_path / "elsewhere")

    with pytest.raises(ConfigurationError, match="TASKMILL_SCRATCH_DIR"):
        ScratchFolder(settings.model_copy(update={"scratch_dir": None}))
