"""The status, error, artifacts and folder of an attempt after each way in which it can end, and its leases."""

from __future__ import annotations

import errno
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest

from shared.contracts.files.inspect import KIND as INSPECT
from shared.contracts.files.inspect import InspectParams, InspectResult
from shared.contracts.kind import RetryPolicy
from shared.contracts.platform.ping import PingParams, PingResult
from shared.errors import StorageFull
from shared.queries.relay import SWEEP
from shared.settings import Settings
from shared.tasks.options import Backoff
from tests.conftest import PATIENCE_SECONDS, Eventually, wait_until_true
from tests.workers.conftest import Bench, MakeDue, Tasks
from workers.engine import heartbeat as heartbeat_module
from workers.engine.attempt import Attempt
from workers.engine.finishing import Finish, Finisher
from workers.handler_context import HandlerContext
from workers.outcomes import Cancelled, ClaimLost, Failed, Requeued

PING = "platform.ping"


def _objects(bench: Bench) -> list[str]:
    return [stored.key for stored in bench.store.list_objects(datetime.now(UTC) + timedelta(days=1))]


def _make_artifact(context: HandlerContext, text: str = "made") -> None:
    context.scratch.mkdir(parents=True, exist_ok=True)
    path = context.scratch / "made.txt"
    path.write_text(text)
    context.add_artifact(path, "made.txt", "text/plain")


def test_the_result_of_the_handler_is_stored_as_the_result_of_the_task(tasks: Tasks, bench: Bench) -> None:
    bench.handlers[PING] = lambda params, context: PingResult(echo=params.echo)
    task_id = tasks.submit_one(params={"echo": "hello"})

    bench.do(task_id)

    row = tasks.get(task_id)
    assert (row.status, row.result, row.error, row.attempt) == ("succeeded", {"echo": "hello"}, None, 1)
    assert (row.claim, row.lease_until) == (None, None)
    assert tasks.history(task_id) == ["queued", "running", "succeeded"]


def test_artifacts_are_files_once_the_attempt_has_succeeded(tasks: Tasks, bench: Bench) -> None:
    def handle(params: PingParams, context: HandlerContext) -> PingResult:
        _make_artifact(context)
        assert tasks.connection.execute("SELECT count(*) AS n FROM files").fetchone().n == 0
        return PingResult(echo=None)

    bench.handlers[PING] = handle
    task_id = tasks.submit_one(keep_for=60)

    bench.do(task_id)

    (file,) = tasks.connection.execute("SELECT * FROM files").fetchall()
    assert (file.name, file.size, file.origin, file.task_id) == ("made.txt", 4, "task", task_id)
    assert file.expires_at == tasks.get(task_id).purge_at
    assert _objects(bench) == [file.storage_key]


@pytest.mark.parametrize(
    ("raised", "status", "problem"),
    [
        (Failed("/problems/unreadable-image", "Unreadable"), "failed", "/problems/unreadable-image"),
        (Failed("/problems/busy", "Busy", retryable=True), "retrying", "/problems/busy"),
        (RuntimeError("a secret path"), "retrying", "/problems/internal-error"),
        (MemoryError(), "retrying", "/problems/internal-error"),
        (StorageFull("a secret path"), "retrying", "/problems/storage-full"),
        (OSError(errno.ENOSPC, "a secret path"), "retrying", "/problems/storage-full"),
        (SystemExit(3), "retrying", "/problems/internal-error"),
        (Cancelled(), "cancelled", "/problems/cancelled"),
    ],
)
def test_an_exception_of_a_handler_sets_the_error_and_its_artifacts_are_deleted(
    tasks: Tasks, bench: Bench, raised: BaseException, status: str, problem: str
) -> None:
    def handle(params: PingParams, context: HandlerContext) -> PingResult:
        _make_artifact(context)
        raise raised

    bench.handlers[PING] = handle
    task_id = tasks.submit_one()

    bench.do(task_id)

    row = tasks.get(task_id)
    assert (row.status, row.error["type"], row.result) == (status, problem, None)
    assert "secret" not in str(row.error)
    assert _objects(bench) == []


def test_a_requeued_attempt_is_not_counted(tasks: Tasks, bench: Bench) -> None:
    def handle(params: PingParams, context: HandlerContext) -> PingResult:
        raise Requeued

    bench.handlers[PING] = handle
    task_id = tasks.submit_one()

    bench.do(task_id)

    row = tasks.get(task_id)
    assert (row.status, row.attempt, row.rung_at, row.started_at) == ("queued", 0, None, None)
    assert tasks.history(task_id) == ["queued", "running", "queued"]


def test_a_failure_of_the_last_attempt_fails_the_task(tasks: Tasks, bench: Bench, make_due: MakeDue) -> None:
    def handle(params: PingParams, context: HandlerContext) -> PingResult:
        raise RuntimeError

    bench.handlers[PING] = handle
    task_id = tasks.submit_one(max_attempts=2)

    bench.do(task_id)
    make_due(task_id)
    bench.do(task_id)

    row = tasks.get(task_id)
    assert (row.status, row.attempt, row.error["attempt"]) == ("failed", 2, 2)
    assert tasks.history(task_id) == ["queued", "running", "retrying", "queued", "running", "failed"]


def test_retries_wait_exponentially_longer_up_to_a_bound() -> None:
    policy = RetryPolicy()

    spans = [(policy.delay_seconds(attempt, 0.0), policy.delay_seconds(attempt, 1.0)) for attempt in (1, 2, 3, 12, 500)]

    assert spans == [(2.5, 5.0), (5.0, 10.0), (10.0, 20.0), (1800.0, 3600.0), (1800.0, 3600.0)]


def test_a_task_with_a_backoff_of_its_own_waits_as_that_says(tasks: Tasks, bench: Bench) -> None:
    def fail(params: PingParams, context: HandlerContext) -> PingResult:
        raise Failed("/problems/busy", "Busy", retryable=True)

    bench.handlers[PING] = fail
    backoff = Backoff(first_seconds=600, longest_seconds=900)
    failed, lost = tasks.submit(count=2, max_attempts=5, backoff=backoff)

    bench.do(failed)
    bench.claim(lost)
    tasks.connection.execute(
        "UPDATE tasks SET lease_until = now() - interval '1 s', named_claim = claim WHERE id = %s", (lost,)
    )
    _sweep(tasks)
    waits = []
    for task_id in (failed, lost):
        (wait,) = tasks.connection.execute(
            "SELECT extract(epoch FROM next_attempt_at - now())::float8 FROM tasks WHERE id = %s", (task_id,)
        ).fetchone()
        waits.append(wait)

    assert [299 < wait <= 600 for wait in waits] == [True, True], waits


def test_a_retry_waits_as_long_as_the_kind_or_the_failure_requires(tasks: Tasks, bench: Bench) -> None:
    waits = {}
    for after in (None, 30.0):

        def handle(params: PingParams, context: HandlerContext, after: float | None = after) -> PingResult:
            raise Failed("/problems/busy", "Busy", retryable=True, after_seconds=after)

        bench.handlers[PING] = handle
        task_id = tasks.submit_one()
        bench.do(task_id)
        row = tasks.connection.execute(
            "SELECT extract(epoch FROM next_attempt_at - (SELECT max(at) FROM task_events WHERE task_id = id))::float"
            " AS seconds FROM tasks WHERE id = %s",
            (task_id,),
        ).fetchone()
        waits[after] = row.seconds

    assert 1.4 <= waits[None] <= 5.1
    assert 29.0 <= waits[30.0] <= 30.1


@pytest.mark.parametrize(
    "bad",
    [
        pytest.param(lambda: PingResult(echo="a\0b"), id="a character that the database does not take"),
        pytest.param(lambda: PingResult.model_construct(echo=object()), id="no JSON"),
        pytest.param(lambda: PingResult.model_construct(echo="\ud800"), id="half a character"),
        pytest.param(lambda: None, id="nothing"),
    ],
)
@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")
def test_a_result_that_cannot_be_stored_is_an_internal_error(
    tasks: Tasks, bench: Bench, bad: Callable[[], PingResult | None]
) -> None:
    def handle(params: PingParams, context: HandlerContext) -> PingResult | None:
        _make_artifact(context)
        return bad()

    bench.handlers[PING] = handle
    task_id = tasks.submit_one(max_attempts=1)

    bench.do(task_id)

    row = tasks.get(task_id)
    assert (row.status, row.error["type"]) == ("failed", "/problems/internal-error")
    assert _objects(bench) == []


@pytest.mark.parametrize("data", [{"where": {1, 2}}, {"text": "a\0b"}, {"text": "\ud800"}])
def test_an_error_that_cannot_be_stored_is_an_internal_error(tasks: Tasks, bench: Bench, data: dict[str, Any]) -> None:
    def handle(params: PingParams, context: HandlerContext) -> PingResult:
        raise Failed("/problems/odd", "Odd", data=data)

    bench.handlers[PING] = handle
    task_id = tasks.submit_one(max_attempts=1)

    bench.do(task_id)

    assert tasks.get(task_id).error["type"] == "/problems/internal-error"


def test_params_that_the_kind_no_longer_accepts_fail_the_task_at_once(tasks: Tasks, bench: Bench) -> None:
    bench.handlers[PING] = lambda params, context: PingResult(echo=None)
    task_id = tasks.submit_one()
    tasks.connection.execute("UPDATE task_payloads SET params = '{\"old\": 1}' WHERE task_id = %s", (task_id,))

    bench.do(task_id)

    assert (tasks.status(task_id), tasks.get(task_id).error["type"]) == ("failed", "/problems/unreadable-params")
    assert "/old: Extra inputs are not permitted" in tasks.get(task_id).error["detail"]


def test_an_attempt_reads_no_file_of_another_organization(tasks: Tasks, bench: Bench) -> None:
    file_id = uuid4()
    tasks.connection.execute(
        """INSERT INTO files (id, organization_id, owner_id, name, media_type, size, sha256, origin, storage_key)
           VALUES (%(id)s, gen_random_uuid(), gen_random_uuid(), 'a', 'text/plain', 1, sha256('a'), 'upload', 'key')""",
        {"id": file_id},
    )

    def handle(params: InspectParams, context: HandlerContext) -> InspectResult:
        context.input_file(params.file_id)
        raise AssertionError("it was read")

    bench.handlers["files.inspect"] = handle
    task_id = tasks.submit_one("files.inspect", params={"file_id": str(file_id)})

    bench.do(task_id)

    assert (tasks.status(task_id), tasks.get(task_id).error["type"]) == ("failed", "/problems/input-gone")


@pytest.mark.parametrize(
    "raised", [None, RuntimeError(), Failed("/problems/x", "X"), Cancelled(), Requeued(), ClaimLost()]
)
def test_the_scratch_folder_is_removed_however_the_attempt_ends(
    tasks: Tasks, bench: Bench, raised: BaseException | None
) -> None:
    seen: list[Path] = []

    def handle(params: InspectParams, context: HandlerContext) -> InspectResult:
        (context.scratch / "left-behind").mkdir()
        seen.append(context.scratch)
        assert context.scratch.stat().st_mode & 0o077 == 0
        if raised is not None:
            raise raised
        return INSPECT.result.model_construct()

    bench.handlers["files.inspect"] = handle
    task_id = tasks.submit_one("files.inspect", params={"file_id": UUID(int=7)})

    bench.do(task_id)

    assert not seen[0].exists()
    assert list(bench.scratch.iterdir()) == []


def test_an_attempt_whose_claim_is_lost_writes_nothing_and_its_artifact_is_deleted(
    tasks: Tasks, bench: Bench, make_due: MakeDue
) -> None:
    held, go_on = threading.Event(), threading.Event()

    def handle(params: PingParams, context: HandlerContext) -> PingResult:
        if context.attempt == 1:
            _make_artifact(context, "stale")
            held.set()
            assert go_on.wait(60)
            return PingResult(echo="stale")
        _make_artifact(context, "fresh")
        return PingResult(echo="fresh")

    bench.handlers[PING] = handle
    task_id = tasks.submit_one()
    (stale,) = bench.claim(task_id)
    thread = bench.start(stale)
    assert held.wait(PATIENCE_SECONDS)
    tasks.connection.execute("UPDATE tasks SET lease_until = now() - interval '1 s', named_claim = claim")
    _sweep(tasks)
    make_due(task_id)

    (fresh,) = bench.claim(task_id)
    go_on.set()
    thread.join(timeout=60)
    assert tasks.status(task_id) == "running"
    bench.run(fresh)

    row = tasks.get(task_id)
    assert (row.status, row.result, row.attempt) == ("succeeded", {"echo": "fresh"}, 2)
    assert tasks.history(task_id) == ["queued", "running", "retrying", "queued", "running", "succeeded"]
    (file,) = tasks.connection.execute("SELECT storage_key FROM files").fetchall()
    wait_until_true(lambda: _objects(bench) == [file.storage_key])


def _sweep(tasks: Tasks) -> None:
    tasks.connection.execute(SWEEP, {"limit": 10})


def test_a_stale_attempt_cannot_report_progress_or_write_in_a_fenced_transaction(tasks: Tasks, bench: Bench) -> None:
    outcomes: list[str] = []

    def handle(params: PingParams, context: HandlerContext) -> PingResult:
        tasks.connection.execute("UPDATE tasks SET lease_until = now() - interval '1 s', named_claim = claim")
        _sweep(tasks)
        for act in (lambda: context.progress(50), lambda: context.fenced_transaction().__enter__()):
            try:
                act()
            except ClaimLost:
                outcomes.append("lost")
        raise ClaimLost

    bench.handlers[PING] = handle
    task_id = tasks.submit_one()
    bench.do(task_id)

    assert outcomes == ["lost", "lost"]
    assert tasks.get(task_id).progress_percent is None
    assert tasks.status(task_id) == "retrying"


def test_artifacts_are_kept_when_the_reply_to_the_finish_is_lost(tasks: Tasks, bench: Bench) -> None:
    writes: list[int] = []

    def lose_the_first_reply(finishes: Sequence[Finish]) -> None:
        writes.append(len(finishes))
        if len(writes) == 1:
            raise psycopg.OperationalError("the reply was lost")

    bench.writer.after = lose_the_first_reply

    def handle(params: PingParams, context: HandlerContext) -> PingResult:
        _make_artifact(context)
        return PingResult(echo=None)

    bench.handlers[PING] = handle
    task_id = tasks.submit_one()
    bench.do(task_id)

    assert len(writes) == 2
    assert tasks.status(task_id) == "succeeded"
    assert len(_objects(bench)) == 1


def test_progress_is_stored_and_stops_a_cancelled_attempt(tasks: Tasks, bench: Bench) -> None:
    def handle(params: PingParams, context: HandlerContext) -> PingResult:
        context.progress(40, "2 of 5")
        row = tasks.get(context.task_id)
        assert (row.progress_percent, row.progress_message, row.version) == (40, "2 of 5", 3)
        tasks.cancel(context.task_id)
        context.progress(100)
        raise AssertionError("progress did not stop the attempt")

    bench.handlers[PING] = handle
    task_id = tasks.submit_one()

    bench.do(task_id)

    assert tasks.status(task_id) == "cancelled"
    assert tasks.get(task_id).cancel_requested_at is not None


def test_a_cancelled_attempt_that_fails_is_cancelled_and_not_retried(tasks: Tasks, bench: Bench) -> None:
    def handle(params: PingParams, context: HandlerContext) -> PingResult:
        tasks.cancel(context.task_id)
        raise RuntimeError

    bench.handlers[PING] = handle
    task_id = tasks.submit_one()

    bench.do(task_id)

    assert (tasks.status(task_id), tasks.get(task_id).error["type"]) == ("cancelled", "/problems/cancelled")


def test_a_handler_that_returns_despite_a_cancel_succeeds(tasks: Tasks, bench: Bench) -> None:
    def handle(params: PingParams, context: HandlerContext) -> PingResult:
        tasks.cancel(context.task_id)
        return PingResult(echo=None)

    bench.handlers[PING] = handle
    task_id = tasks.submit_one()

    bench.do(task_id)

    assert tasks.status(task_id) == "succeeded"


@pytest.mark.parametrize(("max_attempts", "status"), [(2, "retrying"), (1, "failed")])
def test_an_attempt_that_times_out_is_retried_while_attempts_are_left(
    tasks: Tasks, bench: Bench, max_attempts: int, status: str
) -> None:
    bench.handlers[PING] = lambda params, context: context.sleep(30)
    task_id = tasks.submit_one(timeout=1, max_attempts=max_attempts)

    started = time.monotonic()
    bench.do(task_id)

    assert time.monotonic() - started < 20
    assert (tasks.status(task_id), tasks.get(task_id).error["type"]) == (status, "/problems/timed-out")


def _wait_for_a_renewal(tasks: Tasks, task_id: UUID) -> None:
    before = tasks.get(task_id).lease_until
    wait_until_true(lambda: tasks.get(task_id).lease_until != before)


def test_heartbeats_renew_leases_and_stop_cancelled_attempts(tasks: Tasks, bench: Bench) -> None:
    def handle(params: PingParams, context: HandlerContext) -> PingResult:
        for _ in range(2):
            _wait_for_a_renewal(tasks, context.task_id)
            _sweep(tasks)
        tasks.cancel(context.task_id)
        context.sleep(30)
        raise AssertionError

    bench.handlers[PING] = handle
    bench.heartbeat.start()
    task_id = tasks.submit_one()

    started = time.monotonic()
    bench.do(task_id)

    # Two heartbeats are two thirds of the lease, which is 2 s; the rest is for a busy machine, and less than the sleep.
    assert time.monotonic() - started < 20
    assert tasks.history(task_id) == ["queued", "running", "running", "cancelled"]


def test_a_heartbeat_stops_an_attempt_whose_claim_is_lost(tasks: Tasks, bench: Bench) -> None:
    def handle(params: PingParams, context: HandlerContext) -> PingResult:
        tasks.connection.execute("UPDATE tasks SET lease_until = now() - interval '1 s', named_claim = claim")
        _sweep(tasks)
        context.sleep(30)
        raise AssertionError

    bench.handlers[PING] = handle
    bench.heartbeat.start()
    task_id = tasks.submit_one()

    started = time.monotonic()
    bench.do(task_id)

    assert time.monotonic() - started < 20
    assert tasks.status(task_id) == "retrying"


def test_a_claimed_task_that_waits_too_long_for_a_thread_is_reported(tasks: Tasks, bench: Bench) -> None:
    (attempt,) = bench.claim(tasks.submit_one())
    bench.heartbeat.start()

    waiting = wait_until_true(lambda: bench.waiting)

    assert waiting[0] is attempt


def test_an_attempt_that_runs_past_its_timeout_is_reported_as_stuck(
    tasks: Tasks, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heartbeat_module, "HARD_LIMIT_SECONDS", 0.2)
    go_on = threading.Event()

    def handle(params: PingParams, context: HandlerContext) -> PingResult:
        go_on.wait(60)
        return PingResult(echo=None)

    bench.handlers[PING] = handle
    bench.heartbeat.start()
    (attempt,) = bench.claim(tasks.submit_one(timeout=1))
    thread = bench.start(attempt)

    stuck = wait_until_true(lambda: bench.stuck)
    go_on.set()
    thread.join(timeout=60)

    assert stuck[0] is attempt


def test_heartbeats_go_on_after_an_error_and_after_a_lost_connection(
    tasks: Tasks, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = threading.Event()

    def fail(attempts: Iterable[Attempt]) -> None:
        failed.set()
        raise RuntimeError

    bench.on_waiting = fail
    (attempt,) = bench.claim(tasks.submit_one())
    bench.heartbeat.start()
    assert failed.wait(PATIENCE_SECONDS)
    _wait_for_a_renewal(tasks, attempt.task.id)

    # With a timeout, this returns only when the connection is closed.
    tasks.connection.execute(
        "SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity"
        " WHERE application_name = 'taskmill-worker-heartbeat'"
    )
    _wait_for_a_renewal(tasks, attempt.task.id)
    _sweep(tasks)

    assert tasks.status(attempt.task.id) == "running"


def test_an_attempt_is_begun_or_withdrawn_once_and_never_both(tasks: Tasks, bench: Bench) -> None:
    first, second = bench.claim(*tasks.submit(count=2))

    assert [first.begin(), first.begin(), first.withdraw()] == [True, False, False]
    assert [second.withdraw(), second.withdraw(), second.begin()] == [True, False, False]


def test_a_lost_claim_takes_precedence_over_a_cancel_and_a_requeue(tasks: Tasks, bench: Bench) -> None:
    (attempt,) = bench.claim(tasks.submit_one())
    attempt.stop(Cancelled())
    attempt.stop(ClaimLost())
    attempt.stop(Requeued())

    with pytest.raises(ClaimLost):
        attempt.check()


def test_waiting_attempts_are_requeued_without_waiting_for_the_database(
    tasks: Tasks, bench: Bench, settings: Settings, eventually: Eventually
) -> None:
    # The finisher has not started, as when the database does not answer. The heartbeat must go on renewing other leases.
    finisher = Finisher(settings)
    executor = bench.make_executor(finisher)
    (attempt,) = bench.claim(tasks.submit_one(), executor=executor)

    requeue = threading.Thread(target=executor.requeue_waiting, args=([attempt],), daemon=True)
    requeue.start()
    requeue.join(timeout=10)

    assert not requeue.is_alive()
    assert executor.list_attempts() == [attempt]
    finisher.start()
    eventually(lambda: not executor.list_attempts())
    assert tasks.status(attempt.task.id) == "queued"
    finisher.close()
