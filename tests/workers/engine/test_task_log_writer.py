"""The lines that a handler logs for the owner of a task: their order, their limits, and the fence."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from shared.contracts.platform.ping import PingParams, PingResult
from shared.queries.events import LIST_LOG
from shared.queries.relay import SWEEP
from shared.queries.verification import CHECKS
from tests.workers.conftest import Bench, MakeDue, Tasks
from workers.engine.task_log_writer import FULL, MAX_BYTES, MAX_LINES
from workers.handler_context import HandlerContext
from workers.outcomes import Failed

PING = "platform.ping"


def read_log(tasks: Tasks, task_id: UUID) -> list[Any]:
    parameters = {"id": task_id, "after": 0, "limit": 10_000}
    return list(tasks.connection.execute(LIST_LOG, parameters).fetchall())


def find_gaps(tasks: Tasks) -> list[Any]:
    """Return the tasks whose history does not have every number from 1 to the version of the task."""
    (check,) = (check for check in CHECKS if check.name == "history")
    return list(tasks.connection.execute(check.statement, {"floor": UUID(int=0)}).fetchall())


def test_lines_are_events_of_the_task_in_the_order_of_the_attempt(tasks: Tasks, bench: Bench) -> None:
    def handle(params: PingParams, context: HandlerContext) -> PingResult:
        context.write_log("info", "began", rows=3)
        context.write_log("warning", "nul \x00 and half a pair \ud800", nested={"a": ["\x00"]})
        context.progress(50)
        context.write_log("error", "ended")
        return PingResult(echo=None)

    bench.handlers[PING] = handle
    task_id = tasks.submit_one()

    bench.do(task_id)

    types = tasks.connection.execute("SELECT type FROM task_events WHERE task_id = %s ORDER BY seq", (task_id,))
    lines = read_log(tasks, task_id)
    assert [row.type for row in types] == ["status", "status", "log", "log", "progress", "log", "status"]
    assert [(line.level, line.text, line.fields) for line in lines] == [
        ("info", "began", {"rows": 3}),
        ("warning", "nul \ufffd and half a pair ?", {"nested": {"a": ["\ufffd"]}}),
        ("error", "ended", {}),
    ]
    assert tasks.status(task_id) == "succeeded"
    assert find_gaps(tasks) == []


def test_lines_are_readable_while_the_attempt_runs(tasks: Tasks, bench: Bench) -> None:
    seen: list[str] = []

    def handle(params: PingParams, context: HandlerContext) -> PingResult:
        context.write_log("info", "working")
        while not seen:
            seen.extend(line.text for line in read_log(tasks, context.task_id))
            context.sleep(0.01)
        return PingResult(echo=None)

    bench.handlers[PING] = handle
    bench.do(tasks.submit_one())

    assert seen == ["working"]


def test_a_chatty_handler_costs_few_transactions(tasks: Tasks, bench: Bench) -> None:
    def handle(params: PingParams, context: HandlerContext) -> PingResult:
        for number in range(500):
            context.write_log("debug", f"line {number}")
        return PingResult(echo=None)

    bench.handlers[PING] = handle
    task_id = tasks.submit_one()

    bench.do(task_id)

    assert [line.text for line in read_log(tasks, task_id)] == [f"line {number}" for number in range(500)]
    writes = "SELECT count(DISTINCT xmin::text) AS n FROM task_events WHERE task_id = %s AND type = 'log'"
    (row,) = tasks.connection.execute(writes, (task_id,)).fetchall()
    assert row.n <= 10


def test_a_log_has_limits_for_all_attempts_together_and_then_says_so(
    tasks: Tasks, bench: Bench, make_due: MakeDue
) -> None:
    def handle(params: PingParams, context: HandlerContext) -> PingResult:
        for number in range(MAX_LINES - 100 if context.attempt == 1 else 300):
            context.write_log("info", str(number))
        if context.attempt < 3:
            raise Failed("/problems/x", "X", "Once more.", retryable=True)
        return PingResult(echo=None)

    bench.handlers[PING] = handle
    task_id = tasks.submit_one(max_attempts=3)

    bench.do(task_id)
    for _ in range(2):
        make_due(task_id)
        bench.do(task_id)

    texts = [line.text for line in read_log(tasks, task_id)]
    assert len(texts) == MAX_LINES + 1
    assert texts[-2:] == ["99", FULL]
    assert find_gaps(tasks) == []


def test_a_log_has_a_limit_in_bytes(tasks: Tasks, bench: Bench) -> None:
    def handle(params: PingParams, context: HandlerContext) -> PingResult:
        for _ in range(100):
            context.write_log("info", "x" * 10_000)
        return PingResult(echo=None)

    bench.handlers[PING] = handle
    task_id = tasks.submit_one()

    bench.do(task_id)

    *lines, last = read_log(tasks, task_id)
    assert last.text == FULL
    assert MAX_BYTES - 11_000 < sum(len(line.text) for line in lines) <= MAX_BYTES


def test_a_stale_attempt_writes_no_line(tasks: Tasks, bench: Bench) -> None:
    def handle(params: PingParams, context: HandlerContext) -> PingResult:
        tasks.connection.execute("UPDATE tasks SET lease_until = now() - interval '1 s', named_claim = claim")
        tasks.connection.execute(SWEEP, {"limit": 10})
        context.write_log("info", "too late")
        return PingResult(echo=None)

    bench.handlers[PING] = handle
    task_id = tasks.submit_one()

    bench.do(task_id)

    assert read_log(tasks, task_id) == []
    assert tasks.status(task_id) == "retrying"
