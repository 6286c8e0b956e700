"""Finishes that are written together, and errors of one of them, of the database and of the broker."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Sequence
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest

from shared.queries.tasks import CANCEL
from shared.settings import Settings
from tests.workers.conftest import Bench, HookedWriter, Tasks
from workers.engine import finishing
from workers.engine.attempt import Attempt
from workers.engine.finishing import REFUSED, UNKNOWN, Finish, Finisher


def _success(attempt: Attempt, **fields: object) -> dict[str, Any]:
    return dict(attempt.finish_document("succeeded", **{"result": {}, **fields}))


def test_finishes_that_gather_during_a_write_are_written_together(tasks: Tasks, bench: Bench) -> None:
    attempts = bench.claim(*tasks.submit(count=20))
    first_is_in, go_on, sizes = threading.Event(), threading.Event(), []

    def wait(finishes: Sequence[Finish]) -> None:
        sizes.append(len(finishes))
        first_is_in.set()
        assert go_on.wait(20)

    bench.writer.before = wait
    states: list[str | None] = []
    for attempt in attempts:
        bench.finisher.write_soon(_success(attempt), states.append)
        assert first_is_in.wait(20)
    go_on.set()
    bench.finisher.close()

    assert sizes == [1, 19]
    assert states == ["succeeded"] * 20


@pytest.mark.parametrize("bad", ["\0", "a\0b"])
def test_a_finish_that_the_database_refuses_does_not_affect_the_others(
    tasks: Tasks, bench: Bench, settings: Settings, bad: str
) -> None:
    ids = tasks.submit(count=3)
    attempts = bench.claim(*ids)
    states: dict[UUID, str | None] = {}
    finisher = Finisher(settings)
    for attempt in attempts:
        result = {"echo": bad if attempt.task.id == ids[1] else "good"}
        finisher.write_soon(
            _success(attempt, result=result), lambda state, key=attempt.task.id: states.update({key: state})
        )
    # The finisher starts only now, so that the three are written together.
    finisher.start()
    finisher.close()

    assert states == {ids[0]: "succeeded", ids[1]: REFUSED, ids[2]: "succeeded"}
    assert tasks.status(ids[1]) == "running"


def test_a_requeue_of_a_cancelled_email_reports_an_unknown_delivery(tasks: Tasks, bench: Bench) -> None:
    params = {"to": ["a@example.com"], "subject": "S", "text": "T"}
    task_id = tasks.submit_one("email.send", params=params)
    (attempt,) = bench.claim(task_id)
    tasks.connection.execute(
        "INSERT INTO email_intents (id, task_id, attempt, message_id, recipients) VALUES (%s, %s, 1, 'm', '{a@example.com}')",
        (uuid4(), task_id),
    )
    tasks.connection.execute(CANCEL, {"ids": [task_id]})

    assert bench.finisher.write(attempt.finish_document("queued")) == "cancelled"

    assert tasks.get(task_id).error["type"] == "/problems/delivery-unknown"


def test_a_finish_that_is_not_json_raises_and_does_not_affect_the_others(tasks: Tasks, bench: Bench) -> None:
    ids = tasks.submit(count=2)
    bad, good = bench.claim(*ids)

    with pytest.raises(TypeError):
        bench.finisher.write(_success(bad, result={"echo": {1, 2}}))

    assert bench.finisher.write(_success(good)) == "succeeded"
    assert tasks.status(bad.task.id) == "running"


def test_a_callback_that_raises_does_not_affect_other_finishes(tasks: Tasks, bench: Bench) -> None:
    first, second = bench.claim(*tasks.submit(count=2))

    def fail(_: str | None) -> None:
        raise RuntimeError("the callback fails")

    bench.finisher.write_soon(_success(first), fail)

    assert bench.finisher.write(_success(second)) == "succeeded"
    assert tasks.status(first.task.id) == "succeeded"


def test_an_unexpected_error_makes_one_finish_unknown_and_the_next_is_written(tasks: Tasks, bench: Bench) -> None:
    first, second = bench.claim(*tasks.submit(count=2))

    def fail(finishes: Sequence[Finish]) -> None:
        bench.writer.before = lambda finishes: None
        raise RuntimeError("an unexpected error")

    bench.writer.before = fail

    assert bench.finisher.write(_success(first)) == UNKNOWN
    assert bench.finisher.write(_success(second)) == "succeeded"


def test_a_lost_claim_writes_nothing(tasks: Tasks, bench: Bench) -> None:
    (attempt,) = bench.claim(tasks.submit_one())
    stale = {**_success(attempt), "claim": attempt.task.claim + 1}

    assert bench.finisher.write(stale) is None
    assert tasks.status(attempt.task.id) == "running"


def test_a_closed_connection_is_opened_again(tasks: Tasks, bench: Bench) -> None:
    first, second = bench.claim(*tasks.submit(count=2))
    assert bench.finisher.write(_success(first)) == "succeeded"

    tasks.connection.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'taskmill-worker-finish'"
    )

    assert bench.finisher.write(_success(second)) == "succeeded"


def test_a_long_outage_of_the_database_makes_a_finish_unknown(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finishing, "FINISH_RETRY_LEASES", 2)
    away = settings.model_copy(update={"lease_seconds": 1, "database_url": "postgresql://x@127.0.0.1:1/x"})
    finisher = Finisher(away)
    finisher.start()
    document = {"id": uuid4(), "claim": 1, "status": "succeeded"}

    started = time.monotonic()
    state = finisher.write(document)
    finisher.close()

    assert state == UNKNOWN
    assert time.monotonic() - started < 30


def test_a_finish_is_written_after_an_outage_longer_than_a_lease(
    tasks: Tasks, bench: Bench, settings: Settings
) -> None:
    (attempt,) = bench.claim(tasks.submit_one())
    writer, back_at = HookedWriter(settings), time.monotonic() + 1.5
    finisher = Finisher(settings.model_copy(update={"lease_seconds": 1}), writer=writer)

    def be_away(finishes: Sequence[Finish]) -> None:
        if time.monotonic() < back_at:
            raise psycopg.OperationalError("the database is away")

    writer.before = be_away
    finisher.start()

    assert finisher.write(_success(attempt)) == "succeeded"
    finisher.close()


def test_a_finish_whose_reply_was_lost_is_not_written_twice(tasks: Tasks, bench: Bench) -> None:
    (attempt,) = bench.claim(tasks.submit_one())

    def lose_the_reply(finishes: Sequence[Finish]) -> None:
        bench.writer.after = lambda finishes: None
        raise psycopg.OperationalError("the reply was lost")

    bench.writer.after = lose_the_reply

    assert bench.finisher.write(_success(attempt)) is None
    assert tasks.history(attempt.task.id) == ["queued", "running", "succeeded"]


def test_a_broker_that_does_not_answer_delays_finishes_only_once(
    tasks: Tasks, bench: Bench, settings: Settings
) -> None:

    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"redis://127.0.0.1:{silent.getsockname()[1]}/0"
        finisher = Finisher(settings.model_copy(update={"broker_url": url}))
        finisher.start()
        attempts = bench.claim(*tasks.submit(count=100))

        started = time.monotonic()
        for attempt in attempts:
            assert finisher.write(_success(attempt)) == "succeeded"
        took = time.monotonic() - started
        finisher.close()

    # The first publication waits half a second for a reply, and the next ones are skipped for a while.
    assert took < 40
